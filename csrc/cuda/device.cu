// What the torch-facing files ask of CUDA itself.
#include "calls.h"
#include "launch.cuh"

namespace idgan {

int count_sms(int device) {
  int count = 0;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), __FILE__);
  return count;
}

}  // namespace idgan
