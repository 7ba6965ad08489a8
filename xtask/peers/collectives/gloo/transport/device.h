// Stands in for gloo's header: as much as libtorch's declaration of ProcessGroupGloo names. Held by pointer only.
#pragma once
namespace gloo::transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer();
};
} // namespace gloo::transport
