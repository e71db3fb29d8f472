/* A libnvidia-ml.so.1 whose GPUs are the bytes of a file that a test maps too (FAKE_NVML_STATE).
 *
 * The layout of `struct state` is that of State in __init__.py. Signatures and return codes are NVML's (nvml.h).
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST_GPUS = 8, MOST_INSTANCES = 7, MOST_SAMPLES = 8, MOST_LOADS = 64 };
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };
enum { POWER_AVERAGE = 185, POWER_INSTANT = 186 };

struct sample { uint64_t stamp_us; uint32_t pid, busy; };
struct instance { char uuid[96]; uint32_t slices; };

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
    uint32_t instant_mw;    /* 0: power_mw */
    uint32_t instant_scopes; /* one bit per scope that answers */
    uint32_t average_mw;
    uint32_t average_scopes;
    uint32_t field_type;
    uint32_t sample_count;
    uint32_t samples_error;
    uint32_t mig_slices;    /* 0: MIG is off */
    struct sample samples[MOST_SAMPLES];
    struct instance instances[MOST_INSTANCES];
};

struct state {
    uint32_t count;
    uint32_t init_error;
    uint32_t loads;         /* how often the driver was reloaded */
    uint32_t stale_uses;    /* of handles from before a reload */
    uint32_t inits;
    uint32_t unused;
    struct gpu gpus[MOST_GPUS];
};

/* What a nvmlDevice_t points to. Each load of the driver has its own, so that a stale one is noticed. */
struct handle { struct gpu *gpu; struct instance *instance; uint32_t number, load; };

static struct state *state;
static struct handle handles[MOST_LOADS][MOST_GPUS][1 + MOST_INSTANCES];
static int started;
static uint32_t started_load;

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
    if (state->init_error)
        return state->init_error;
    if (started_load != state->loads)
        started = 0;
    started_load = state->loads;
    started++;
    state->inits++;
    return SUCCESS;
}

static int running(void) {
    return started && started_load == state->loads && !state->init_error ? SUCCESS : UNINITIALIZED;
}

static int check(const struct handle *handle) {
    if (running() != SUCCESS)
        return UNINITIALIZED;
    if (handle->load == started_load)
        return SUCCESS;
    state->stale_uses++;
    return INVALID_ARGUMENT;
}

/* number 0: the GPU; from 1: its instances */
static struct handle *handle_of(struct gpu *gpu, uint32_t number) {
    struct handle *handle = &handles[started_load % MOST_LOADS][gpu - state->gpus][number];
    handle->gpu = gpu;
    handle->instance = number ? &gpu->instances[number - 1] : NULL;
    handle->number = number;
    handle->load = started_load;
    return handle;
}

static int text(const char *from, char *to, unsigned int length) {
    return (unsigned int)snprintf(to, length, "%s", from) < length ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return start(); }
int nvmlInit_v2(void) { return start(); }

int nvmlShutdown(void) {
    if (running() != SUCCESS)
        return UNINITIALIZED;
    started--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) { return code ? "an error of the stub" : "Success"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = state->count;
    return running();
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct handle **handle) {
    if (running() != SUCCESS)
        return UNINITIALIZED;
    if (index >= state->count)
        return INVALID_ARGUMENT;
    *handle = handle_of(&state->gpus[index], 0);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct handle **handle) {
    if (running() != SUCCESS)
        return UNINITIALIZED;
    for (unsigned int i = 0; i < state->count; i++)
        if (!strcmp(state->gpus[i].uuid, uuid)) {
            *handle = handle_of(&state->gpus[i], 0);
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(struct handle *handle, char *uuid, unsigned int length) {
    int code = check(handle);
    return code ? code : text(handle->instance ? handle->instance->uuid : handle->gpu->uuid, uuid, length);
}

int nvmlDeviceGetName(struct handle *handle, char *name, unsigned int length) {
    int code = check(handle);
    if (code || !handle->instance)
        return code ? code : text(handle->gpu->name, name, length);
    code = snprintf(name, length, "%s MIG %ug", handle->gpu->name, handle->instance->slices);
    return (unsigned int)code < length ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetTotalEnergyConsumption(struct handle *handle, unsigned long long *millijoules) {
    struct gpu *gpu = handle->gpu;
    struct timespec now;
    uint64_t ran_ns = 0, period_ns = gpu->period_ms * 1000000ull;
    int code = check(handle);
    gpu->energy_reads++;
    if (code || gpu->energy_error || handle->instance)
        return code ? code : gpu->energy_error ? (int)gpu->energy_error : NOT_SUPPORTED;
    if (gpu->since_ns) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        ran_ns = now.tv_sec * 1000000000ull + now.tv_nsec - gpu->since_ns;
        if (period_ns)
            ran_ns -= ran_ns % period_ns;
    }
    *millijoules = gpu->energy_mj + (unsigned long long)(gpu->power_mw * (ran_ns / 1e9));
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(struct handle *handle, unsigned int *milliwatts) {
    int code = check(handle);
    *milliwatts = handle->gpu->power_mw;
    return code ? code : (int)handle->gpu->power_error;
}

int nvmlDeviceGetEnforcedPowerLimit(struct handle *handle, unsigned int *milliwatts) {
    int code = check(handle);
    *milliwatts = handle->gpu->limit_mw;
    return code ? code : (int)handle->gpu->limit_error;
}

struct field_value {
    unsigned int field, scope;
    long long stamp_us, latency_us;
    unsigned int type;
    int code;
    unsigned long long value;
};

int nvmlDeviceGetFieldValues(struct handle *handle, int count, struct field_value *values) {
    struct gpu *gpu = handle->gpu;
    int code = check(handle);
    for (int i = 0; !code && i < count; i++) {
        int instant = values[i].field == POWER_INSTANT;
        uint32_t scopes = instant ? gpu->instant_scopes : gpu->average_scopes;
        uint32_t milliwatts = instant ? gpu->instant_mw : gpu->average_mw;
        int known = instant || values[i].field == POWER_AVERAGE;
        values[i].code = known && scopes >> values[i].scope & 1 ? SUCCESS : NOT_SUPPORTED;
        values[i].type = gpu->field_type;
        values[i].value = milliwatts ? milliwatts : gpu->power_mw;
    }
    return code;
}

int nvmlDeviceGetMigMode(struct handle *handle, unsigned int *current, unsigned int *pending) {
    *current = *pending = handle->gpu->mig_slices > 0;
    return check(handle);
}

int nvmlDeviceGetMaxMigDeviceCount(struct handle *handle, unsigned int *count) {
    *count = handle->gpu->mig_slices;
    return check(handle);
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct handle *handle, unsigned int index, struct handle **instance) {
    int code = check(handle);
    if (code || index >= MOST_INSTANCES || !handle->gpu->instances[index].slices)
        return code ? code : NOT_FOUND;
    *instance = handle_of(handle->gpu, index + 1);
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(struct handle *handle, unsigned int *id) {
    *id = handle->number;
    return check(handle);
}

int nvmlDeviceGetComputeInstanceId(struct handle *handle, unsigned int *id) {
    *id = 0;
    return check(handle);
}

struct attributes {
    unsigned int processors, copy, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mb;
};

int nvmlDeviceGetAttributes_v2(struct handle *handle, struct attributes *attributes) {
    if (!handle->instance)
        return NOT_SUPPORTED;
    attributes->gpu_slices = attributes->compute_slices = handle->instance->slices;
    return check(handle);
}

struct process_sample { unsigned int pid; unsigned long long stamp_us; unsigned int sm, memory, encoder, decoder; };

int nvmlDeviceGetProcessUtilization(struct handle *handle, struct process_sample *samples, unsigned int *count,
                                    unsigned long long since_us) {
    struct gpu *gpu = handle->gpu;
    unsigned int room = *count, fresh = 0;
    int code = check(handle);
    if (code || gpu->samples_error || gpu->mig_slices)
        return code ? code : gpu->samples_error ? (int)gpu->samples_error : NOT_SUPPORTED;
    for (unsigned int i = 0; i < gpu->sample_count; i++)
        if (gpu->samples[i].stamp_us > since_us) {
            if (samples && fresh < room)
                samples[fresh] = (struct process_sample){gpu->samples[i].pid, gpu->samples[i].stamp_us,
                                                         gpu->samples[i].busy, 0, 0, 0};
            fresh++;
        }
    *count = fresh;
    return !fresh ? NOT_FOUND : fresh > room ? INSUFFICIENT_SIZE : SUCCESS;
}
