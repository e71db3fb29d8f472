/* What amdsmi calls of libamd_smi.so, answered from `stub_gpus`, which a test fills in.
 *
 * The structures follow amdsmi 7.0 (amd_smi/amdsmi.h). Every other symbol that the Python package binds at import
 * is made by the build and answers "not supported".
 */
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVAL = 1, NOT_SUPPORTED = 2 };
enum { MOST_GPUS = 8 };

typedef struct {
    char name[64];
    char uuid[64];
    uint64_t units;
    float resolution_uj;
    uint32_t hip;
    double counter_w; /* what the accumulator says is drawn */
    uint32_t power_w; /* what the power reading says; 0xFFFF is its "N/A" */
    uint32_t energy_error;
    uint32_t power_error;
    uint32_t detail_error;
    uint64_t cap_uw;
    uint64_t since_ns;
} stub_gpu;

stub_gpu stub_gpus[MOST_GPUS];
uint32_t stub_count;
uint32_t stub_init_error;

typedef struct {
    uint64_t socket_power;
    uint32_t current_socket_power, average_socket_power;
    uint64_t gfx_voltage, soc_voltage, mem_voltage;
    uint32_t power_limit;
    uint64_t reserved[18];
} power_info;

typedef struct {
    char market_name[256];
    uint32_t vendor_id;
    char vendor_name[256];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[256];
    uint32_t oam_id, num_of_compute_units;
    uint64_t target_graphics_version;
    uint32_t subsystem_id, reserved[21];
} asic_info;

typedef struct {
    uint64_t power_cap, default_power_cap, dpm_cap, min_power_cap, max_power_cap, reserved[3];
} power_cap_info;

typedef struct {
    uint32_t drm_render, drm_card, hsa_id, hip_id;
    char hip_uuid[256];
} __attribute__((packed)) enumeration_info;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int amdsmi_init(uint64_t flags) { (void)flags; return (int)stub_init_error; }
int amdsmi_shut_down(void) { return SUCCESS; }

int amdsmi_get_socket_handles(uint32_t *count, void **handles) {
    *count = 1;
    if (handles) handles[0] = &stub_count;
    return SUCCESS;
}

int amdsmi_get_processor_handles(void *socket, uint32_t *count, void **handles) {
    (void)socket;
    *count = stub_count;
    for (uint32_t i = 0; handles && i < stub_count; i++) handles[i] = &stub_gpus[i];
    return SUCCESS;
}

int amdsmi_get_energy_count(stub_gpu *gpu, uint64_t *units, float *resolution_uj, uint64_t *stamp) {
    if (gpu->energy_error) return (int)gpu->energy_error;
    uint64_t now = now_ns();
    if (!gpu->since_ns) gpu->since_ns = now;
    double joules = gpu->counter_w * (double)(now - gpu->since_ns) * 1e-9;
    *units = gpu->units + (uint64_t)(joules / (gpu->resolution_uj * 1e-6));
    *resolution_uj = gpu->resolution_uj;
    *stamp = now;
    return SUCCESS;
}

int amdsmi_get_power_info(stub_gpu *gpu, power_info *info) {
    if (gpu->power_error) return (int)gpu->power_error;
    memset(info, 0, sizeof *info);
    info->socket_power = info->average_socket_power = 0xFFFF;
    info->current_socket_power = gpu->power_w;
    return SUCCESS;
}

int amdsmi_get_gpu_asic_info(stub_gpu *gpu, asic_info *info) {
    if (gpu->detail_error) return (int)gpu->detail_error;
    memset(info, 0, sizeof *info);
    strcpy(info->market_name, gpu->name);
    return SUCCESS;
}

int amdsmi_get_power_cap_info(stub_gpu *gpu, uint32_t sensor, power_cap_info *info) {
    (void)sensor;
    if (gpu->detail_error) return (int)gpu->detail_error;
    memset(info, 0, sizeof *info);
    info->power_cap = info->max_power_cap = gpu->cap_uw;
    return SUCCESS;
}

int amdsmi_get_gpu_device_uuid(stub_gpu *gpu, uint32_t *length, char *uuid) {
    if (gpu->detail_error) return (int)gpu->detail_error;
    if (*length <= strlen(gpu->uuid)) return INVAL;
    strcpy(uuid, gpu->uuid);
    return SUCCESS;
}

int amdsmi_get_gpu_enumeration_info(stub_gpu *gpu, enumeration_info *info) {
    if (gpu->detail_error) return (int)gpu->detail_error;
    memset(info, 0, sizeof *info);
    info->hip_id = gpu->hip;
    return SUCCESS;
}
