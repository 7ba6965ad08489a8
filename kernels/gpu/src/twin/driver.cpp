// A driver and a compiler of CUDA that are none: memory is the processor's, and a kernel runs in `shim.cpp`. Built as
// `libcuda.so` and `libnvrtc.so`, it lets the tests run what calls the real ones. All work is done when a call returns.

#include "shim.cpp"

#include <atomic>
#include <mutex>

#define API extern "C" int
typedef unsigned long long Address;

static thread_local void *current_context;
static int context_of_device, module_of_image, stream_of_context;

API cuInit(unsigned) { return 0; }
API cuGetErrorString(int, const char **text) { return *text = "an error of a pretended driver", 0; }
API cuDeviceGetCount(int *count) { return *count = 1, 0; }
API cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? 0 : 101; }
API cuDeviceGetName(char *name, int bytes, int) { return std::snprintf(name, bytes, "pretended"), 0; }
// Ranks that are threads have a device each, as far as they can tell, where an NCCL is pretended too.
API cuDeviceGetUuid_v2(char *uuid, int) {
    static std::atomic<char> next;
    return std::memset(uuid, std::getenv("PRETENDED_DEVICES") ? ++next : 7, 16), 0;
}
// The compute capability 9.0, and nothing else.
API cuDeviceGetAttribute(int *value, int attribute, int) { return *value = attribute == 75 ? 9 : 0, 0; }
API cuDevicePrimaryCtxRetain(void **context, int) { return *context = &context_of_device, 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API cuCtxGetCurrent(void **context) { return *context = current_context, 0; }
API cuCtxSetCurrent(void *context) { return current_context = context, 0; }
API cuStreamCreate(void **stream, unsigned) { return *stream = std::malloc(1), 0; }
API cuStreamDestroy_v2(void *stream) { return std::free(stream), 0; }
API cuStreamSynchronize(void *) { return 0; }
API cuEventCreate(void **event, unsigned) { return *event = &stream_of_context, 0; }
API cuEventDestroy_v2(void *) { return 0; }
API cuEventRecord(void *, void *) { return 0; }
API cuEventQuery(void *) { return 0; }

API cuMemAlloc_v2(Address *at, size_t bytes) {
    if (!current_context || bytes == 0) return 1;
    void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    // What nobody has written must not look like anything.
    std::memset(memory, 0xdb, bytes);
    *at = (Address)memory;
    return 0;
}
API cuMemFree_v2(Address at) { return std::free((void *)at), 0; }
API cuMemHostAlloc(void **at, size_t bytes, unsigned) { return *at = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), 0; }
API cuMemFreeHost(void *at) { return std::free(at), 0; }
API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *) { return std::memcpy((void *)to, from, bytes), 0; }
API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *) { return std::memcpy(to, (void *)from, bytes), 0; }
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *) { return std::memcpy((void *)to, (void *)from, bytes), 0; }
API cuMemsetD8Async(Address at, unsigned char value, size_t bytes, void *) { return std::memset((void *)at, value, bytes), 0; }

struct Ipc {
    char bytes[64];
};
API cuIpcGetMemHandle(Ipc *handle, Address at) {
    std::memset(handle, 0, sizeof *handle);
    return std::memcpy(handle->bytes, &at, sizeof at), 0;
}
API cuIpcOpenMemHandle_v2(Address *at, Ipc handle, unsigned) { return std::memcpy(at, handle.bytes, sizeof *at), 0; }
API cuIpcCloseMemHandle(Address) { return 0; }

API cuModuleLoadData(void **module, const void *image) {
    *module = &module_of_image;
    return std::strcmp((const char *)image, "pretended") == 0 ? 0 : 200;
}
API cuModuleUnload(void *) { return 0; }
API cuModuleGetFunction(const void **function, void *, const char *name) {
    for (const Kernel &kernel : kernels()) {
        if (std::strcmp(kernel.name, name) == 0) return *function = &kernel, 0;
    }
    return 500;
}
API cuLaunchKernel(const Kernel *kernel, unsigned grid, unsigned, unsigned, unsigned block, unsigned, unsigned, unsigned, void *,
                   void **arguments, void **) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    return current_context ? launch(kernel->name, grid, block, arguments, 0) : 201;
}

API nvrtcVersion(int *major, int *minor) { return *major = 0, *minor = 0, 0; }
API nvrtcGetNumSupportedArchs(int *count) { return *count = 1, 0; }
API nvrtcGetSupportedArchs(int *archs) { return *archs = 90, 0; }
API nvrtcCreateProgram(void **program, const char *, const char *, int, const char **, const char **) {
    return *program = &module_of_image, 0;
}
API nvrtcDestroyProgram(void **) { return 0; }
API nvrtcCompileProgram(void *, int, const char **) { return 0; }
API nvrtcGetProgramLogSize(void *, size_t *bytes) { return *bytes = 0, 0; }
API nvrtcGetProgramLog(void *, char *) { return 0; }
API nvrtcGetPTXSize(void *, size_t *bytes) { return *bytes = 10, 0; }
API nvrtcGetPTX(void *, char *to) { return std::strcpy(to, "pretended"), 0; }
API nvrtcGetCUBINSize(void *, size_t *bytes) { return *bytes = 10, 0; }
API nvrtcGetCUBIN(void *, char *to) { return std::strcpy(to, "pretended"), 0; }
