// Blocks of a kernel that a multiprocessor holds at once, on a GPU that need not be here: NVIDIA's own calculator.
#include <cuda_occupancy.h>

// sm_<major><minor>: 8.0 and 9.0 have 2048 threads and 65536 registers, and 32 blocks, which the calculator knows.
// shared_of_processor: bytes, of which each block costs 1 KB besides its own. Negative: an error of the calculator.
extern "C" int blocks_of_processor(int major, int minor, int shared_of_processor, int threads, int registers,
                                   int static_shared, int dynamic_shared) {
  constexpr int kReserved = 1024;
  cudaOccDeviceProp device;
  device.computeMajor = major;
  device.computeMinor = minor;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = 2048;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 << 10;
  device.sharedMemPerMultiprocessor = shared_of_processor;
  device.sharedMemPerBlockOptin = shared_of_processor - kReserved;
  device.reservedSharedMemPerBlock = kReserved;
  device.numSms = 1;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = threads;
  kernel.numRegs = registers;
  kernel.sharedSizeBytes = static_shared;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = dynamic_shared;
  kernel.numBlockBarriers = 1;
  const cudaOccDeviceState state;
  cudaOccResult found;
  const cudaOccError error =
      cudaOccMaxActiveBlocksPerMultiprocessor(&found, &device, &kernel, &state, threads, dynamic_shared);
  return error == CUDA_OCC_SUCCESS ? found.activeBlocksPerMultiprocessor : -int(error);
}
