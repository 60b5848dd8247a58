// A library in the driver's place: it has no device, and takes every kernel. With it cuDNN makes plans, and compiles them, for devices that are only described (cudnn_plans_test.cpp).
#include <cstddef>

namespace {

constexpr int no_device = 100;
int thing[16];  // what handles point to

}  // namespace

#define SKIFF_TAKES(name) \
    int name() { return 0; }
#define SKIFF_GIVES(name)     \
    int name(void** handle) { \
        *handle = thing;      \
        return 0;             \
    }
#define SKIFF_NUMBER(name, value) \
    int name(int* number) {       \
        *number = value;          \
        return 0;                 \
    }

extern "C" {

int cuInit(unsigned) { return no_device; }
int cuGetExportTable() { return 1; }
SKIFF_NUMBER(cuDriverGetVersion, 13000)
SKIFF_NUMBER(cuDeviceGetCount, 0)
int cuGetErrorString(int, const char** text) {
    *text = "there is no device";
    return 0;
}
int cuGetErrorName(int, const char** text) {
    *text = "NO_DEVICE";
    return 0;
}

SKIFF_GIVES(cuLibraryLoadData)
SKIFF_GIVES(cuLibraryGetKernel)
SKIFF_GIVES(cuLibraryGetModule)
SKIFF_GIVES(cuKernelGetFunction)
SKIFF_GIVES(cuModuleLoadData)
SKIFF_GIVES(cuModuleLoadDataEx)
SKIFF_GIVES(cuModuleLoadFatBinary)
SKIFF_GIVES(cuModuleGetFunction)
int cuLibraryGetGlobal(void** address, std::size_t* size) {
    *address = thing;
    *size = sizeof thing;
    return 0;
}
int cuModuleGetGlobal_v2(void** address, std::size_t* size) { return cuLibraryGetGlobal(address, size); }
SKIFF_NUMBER(cuKernelGetAttribute, 0)
SKIFF_NUMBER(cuFuncGetAttribute, 0)
SKIFF_NUMBER(cuOccupancyMaxActiveBlocksPerMultiprocessor, 1)
SKIFF_NUMBER(cuOccupancyMaxActiveClusters, 1)
SKIFF_NUMBER(cuOccupancyMaxPotentialClusterSize, 8)

SKIFF_TAKES(cuCtxGetCurrent)
SKIFF_TAKES(cuCtxGetDevice)
SKIFF_TAKES(cuCtxGetLimit)
SKIFF_TAKES(cuCtxPopCurrent)
SKIFF_TAKES(cuCtxPushCurrent)
SKIFF_TAKES(cuDeviceGet)
SKIFF_TAKES(cuDeviceGetAttribute)
SKIFF_TAKES(cuDevicePrimaryCtxRelease)
SKIFF_TAKES(cuDevicePrimaryCtxReset)
SKIFF_TAKES(cuDevicePrimaryCtxRetain)
SKIFF_TAKES(cuFuncSetAttribute)
SKIFF_TAKES(cuKernelSetAttribute)
SKIFF_TAKES(cuLaunchCooperativeKernel)
SKIFF_TAKES(cuLaunchKernel)
SKIFF_TAKES(cuLaunchKernelEx)
SKIFF_TAKES(cuLaunchKernelExC)
SKIFF_TAKES(cuLibraryLoadFromFile)
SKIFF_TAKES(cuLibraryUnload)
SKIFF_TAKES(cuLinkAddData)
SKIFF_TAKES(cuLinkAddData_v2)
SKIFF_TAKES(cuLinkAddFile_v2)
SKIFF_TAKES(cuLinkComplete)
SKIFF_TAKES(cuLinkCreate)
SKIFF_TAKES(cuLinkCreate_v2)
SKIFF_TAKES(cuLinkDestroy)
SKIFF_TAKES(cuMemcpyDtoH_v2)
SKIFF_TAKES(cuModuleUnload)
SKIFF_TAKES(cuStreamGetCtx)
SKIFF_TAKES(cuStreamSynchronize)
SKIFF_TAKES(cuTensorMapEncodeIm2col)
SKIFF_TAKES(cuTensorMapEncodeTiled)
SKIFF_TAKES(cuTensorMapReplaceAddress)

}  // extern "C"
