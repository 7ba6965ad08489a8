// Stands in for gloo's header: as much as libtorch's declaration of ProcessGroupGloo names. Held by pointer only.
#pragma once
#include <chrono>
namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
} // namespace gloo
