/* A libnvidia-ml.so.1 whose GPUs are the bytes of a file that a test maps too (FAKE_NVML_STATE).
 *
 * The layout of `struct state` is that of State in __init__.py. Signatures and return codes are NVML's (nvml.h).
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MOST_GPUS 8
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };

struct gpu {
    char uuid[96];
    char name[96];
    uint64_t energy_mj;     /* at since_ns */
    uint64_t since_ns;      /* CLOCK_MONOTONIC; 0: the counter stands still */
    uint32_t power_mw;
    uint32_t limit_mw;
    uint32_t period_ms;     /* how often a running counter is renewed */
    uint32_t energy_error;
    uint32_t power_error;
    uint32_t limit_error;
    uint64_t energy_reads;
};

struct state {
    uint32_t count;
    uint32_t init_error;
    struct gpu gpus[MOST_GPUS];
};

static struct state *state;
static int started;

static int start(void) {
    if (!state) {
        const char *path = getenv("FAKE_NVML_STATE");
        int descriptor = path ? open(path, O_RDWR) : -1;
        void *mapped = descriptor < 0 ? MAP_FAILED
            : mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        if (descriptor >= 0)
            close(descriptor);
        if (mapped == MAP_FAILED)
            return UNKNOWN;
        state = mapped;
    }
    if (!state->init_error)
        started++;
    return state->init_error;
}

static int text(const char *from, char *to, unsigned int length) {
    return (unsigned int)snprintf(to, length, "%s", from) < length ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return start(); }
int nvmlInit_v2(void) { return start(); }

int nvmlShutdown(void) {
    if (!started)
        return UNINITIALIZED;
    started--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) { return code ? "an error of the stub" : "Success"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    if (!started)
        return UNINITIALIZED;
    *count = state->count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct gpu **handle) {
    if (!started)
        return UNINITIALIZED;
    if (index >= state->count)
        return INVALID_ARGUMENT;
    *handle = &state->gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(struct gpu *gpu, char *uuid, unsigned int length) { return text(gpu->uuid, uuid, length); }
int nvmlDeviceGetName(struct gpu *gpu, char *name, unsigned int length) { return text(gpu->name, name, length); }

int nvmlDeviceGetTotalEnergyConsumption(struct gpu *gpu, unsigned long long *millijoules) {
    struct timespec now;
    uint64_t ran_ns = 0, period_ns = gpu->period_ms * 1000000ull;
    gpu->energy_reads++;
    if (gpu->energy_error)
        return gpu->energy_error;
    if (gpu->since_ns) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        ran_ns = now.tv_sec * 1000000000ull + now.tv_nsec - gpu->since_ns;
        if (period_ns)
            ran_ns -= ran_ns % period_ns;
    }
    *millijoules = gpu->energy_mj + (unsigned long long)(gpu->power_mw * (ran_ns / 1e9));
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(struct gpu *gpu, unsigned int *milliwatts) {
    *milliwatts = gpu->power_mw;
    return gpu->power_error;
}

int nvmlDeviceGetEnforcedPowerLimit(struct gpu *gpu, unsigned int *milliwatts) {
    *milliwatts = gpu->limit_mw;
    return gpu->limit_error;
}
