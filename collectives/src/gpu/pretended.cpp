// An NCCL that is none, for ranks that are threads of one process on the tests' pretended driver. Only what the tests call
// does something: sums of f32 over all ranks. As with the real one, calls return at once and the state tells their end.

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

static const int SUCCESS = 0, INVALID_USAGE = 5, IN_PROGRESS = 7;

struct UniqueId {
    char bytes[128];
};

struct Meeting {
    unsigned ranks = 0, joined = 0;
    // By number of the call: each rank's input and output.
    std::map<unsigned, std::vector<std::pair<const float *, float *>>> calls;
    std::map<unsigned, bool> done;
};

struct Comm {
    Meeting *meeting;
    unsigned call = 0;
};

static std::mutex lock_of_all;
static std::map<std::string, Meeting> meetings;
static unsigned next_id;

extern "C" {
int ncclGetVersion(int *version) { return *version = 21800, SUCCESS; }
int ncclGetUniqueId(UniqueId *id) {
    std::lock_guard<std::mutex> lock(lock_of_all);
    std::memset(id, 0, sizeof *id);
    id->bytes[0] = (char)++next_id;
    return SUCCESS;
}
int ncclCommInitRankConfig(Comm **comm, int ranks, UniqueId id, int, const void *config) {
    unsigned magic;
    int blocking;
    std::memcpy(&magic, (const char *)config + 8, 4);
    std::memcpy(&blocking, (const char *)config + 16, 4);
    if (magic != 0xcafebeef || blocking != 0) return INVALID_USAGE;
    std::lock_guard<std::mutex> lock(lock_of_all);
    Meeting &meeting = meetings[std::string(id.bytes, sizeof id.bytes)];
    meeting.ranks = ranks;
    meeting.joined++;
    *comm = new Comm{&meeting};
    return IN_PROGRESS;
}
int ncclCommGetAsyncError(Comm *comm, int *state) {
    std::lock_guard<std::mutex> lock(lock_of_all);
    Meeting &meeting = *comm->meeting;
    bool ready = meeting.joined >= meeting.ranks && (comm->call == 0 || meeting.done[comm->call]);
    return *state = ready ? SUCCESS : IN_PROGRESS, SUCCESS;
}
int ncclCommFinalize(Comm *) { return SUCCESS; }
int ncclCommDestroy(Comm *comm) { return delete comm, SUCCESS; }
int ncclCommAbort(Comm *comm) { return delete comm, SUCCESS; }
const char *ncclGetErrorString(int) { return "an error of a pretended NCCL"; }
const char *ncclGetLastError(Comm *) { return ""; }
int ncclGroupStart() { return SUCCESS; }
int ncclGroupEnd() { return IN_PROGRESS; }
int ncclAllReduce(const float *input, float *output, size_t count, int type, int op, Comm *comm, void *) {
    if (type != 7 || op != 0) return INVALID_USAGE;
    std::lock_guard<std::mutex> lock(lock_of_all);
    Meeting &meeting = *comm->meeting;
    auto &all = meeting.calls[++comm->call];
    all.push_back({input, output});
    if (all.size() < meeting.ranks) return SUCCESS;
    std::vector<float> sums(count, 0.0f);
    for (auto &rank : all)
        for (size_t i = 0; i < count; i++) sums[i] += rank.first[i];
    for (auto &rank : all) std::memcpy(rank.second, sums.data(), count * sizeof(float));
    meeting.done[comm->call] = true;
    return SUCCESS;
}
int ncclReduceScatter(...) { return INVALID_USAGE; }
int ncclReduce(...) { return INVALID_USAGE; }
int ncclBroadcast(...) { return INVALID_USAGE; }
int ncclAllGather(...) { return INVALID_USAGE; }
int ncclSend(...) { return INVALID_USAGE; }
int ncclRecv(...) { return INVALID_USAGE; }
}
