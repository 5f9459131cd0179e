/* A stand-in for libnvidia-ml.so.1, as far as the sensor asks. It holds no state of its own: every call reads the file
 * named by FAKE_NVML, lines of KEY=VALUE, and appends its own name to the file named by FAKE_NVML_CALLS.
 *
 *   count=2                              number of GPUs
 *   0.uuid= 0.name= 0.total= 0.used= 0.free= 0.reserved=   (bytes)
 *   0.gpu= (percent) 0.celsius= 0.milliwatts= 0.pci= (0000:01:00; left out: not supported)
 *   0.busy=PID:PERCENT,...               how busy each process keeps it; left out: nobody does
 *   0.compute=PID:BYTES,...  0.graphics=PID:BYTES,...      BYTES "-": the driver does not say
 *   error.FUNCTION=CODE  0.error.FUNCTION=CODE             what a function answers instead
 *   error.FUNCTION=block                                   it does not return while this is so
 *   linger=SECONDS                                         how long memory stays taken after its process died
 *
 * Where FAKE_NVML_CLAIMS names a folder, processes take memory: each of its files is called like a pid and holds lines
 * of GPU:BYTES, which are added to what the file above says. The memory of a process that died stays taken, by nobody
 * that can be seen, for as long as `linger` says; PID.died tells since when.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { VALUE = 4096 };

typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } pci;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute_instance; } process;

static int lookup(const char *key, char *value) {
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    char line[VALUE];
    size_t length = strlen(key);
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            line[strcspn(line, "\n")] = 0;
            strcpy(value, line + length + 1);
            found = 1;
        }
    }
    if (file) fclose(file);
    return found;
}

static int of_gpu(int gpu, const char *name, char *value) {
    char key[256];
    snprintf(key, sizeof key, "%d.%s", gpu, name);
    return lookup(key, value);
}

static unsigned long long number(int gpu, const char *name) {
    char value[VALUE];
    return of_gpu(gpu, name, value) ? strtoull(value, NULL, 10) : 0;
}

static void note(const char *function) {
    FILE *file = fopen(getenv("FAKE_NVML_CALLS"), "a");
    if (file) {
        fprintf(file, "%s\n", function);
        fclose(file);
    }
}

/* The error asked for, of a GPU or of all of them; does not return while it is "block". */
static int fault(int gpu, const char *function) {
    char key[256], value[VALUE];
    note(function);
    for (;; usleep(5000)) {
        snprintf(key, sizeof key, "error.%s", function);
        if (!(gpu >= 0 && of_gpu(gpu, key, value)) && !lookup(key, value)) return SUCCESS;
        if (strcmp(value, "block") != 0) return atoi(value);
    }
}

typedef void claimed(void *context, unsigned pid, int alive, unsigned long long bytes);

/* A zombie holds nothing any more. */
static int lives(unsigned pid) {
    char path[64], line[512], *after;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int known = fgets(line, sizeof line, file) && (after = strrchr(line, ')')) && after[1] && after[2];
    fclose(file);
    return known && after[2] != 'Z' && after[2] != 'X';
}

static int lingers(const char *claims, unsigned pid) {
    char path[VALUE], value[VALUE];
    struct stat died;
    struct timespec now;
    double linger = lookup("linger", value) ? atof(value) : 0;
    snprintf(path, sizeof path, "%s/%u.died", claims, pid);
    int created = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (created >= 0) close(created);
    if (linger <= 0 || stat(path, &died) != 0) return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    return (now.tv_sec - died.st_mtim.tv_sec) + (now.tv_nsec - died.st_mtim.tv_nsec) / 1e9 < linger;
}

static void claims_of(const char *claims, unsigned pid, int gpu, claimed *tell, void *context) {
    char path[VALUE], line[128];
    int alive = lives(pid);
    if (!alive && !lingers(claims, pid)) return;
    snprintf(path, sizeof path, "%s/%u", claims, pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        char *bytes = strchr(line, ':');
        if (bytes && atoi(line) == gpu) tell(context, pid, alive, strtoull(bytes + 1, NULL, 10));
    }
    if (file) fclose(file);
}

static void each_claim(int gpu, claimed *tell, void *context) {
    const char *claims = getenv("FAKE_NVML_CLAIMS");
    DIR *folder = claims ? opendir(claims) : NULL;
    struct dirent *entry;
    char *end;
    while (folder && (entry = readdir(folder))) {
        unsigned long pid = strtoul(entry->d_name, &end, 10);
        if (pid && !*end) claims_of(claims, (unsigned)pid, gpu, tell, context);
    }
    if (folder) closedir(folder);
}

static void add_up(void *context, unsigned pid, int alive, unsigned long long bytes) {
    (void)pid;
    (void)alive;
    *(unsigned long long *)context += bytes;
}

static unsigned long long claimed_bytes(int gpu) {
    unsigned long long sum = 0;
    each_claim(gpu, add_up, &sum);
    return sum;
}

static unsigned long long free_bytes(int gpu) {
    unsigned long long left = number(gpu, "free"), sum = claimed_bytes(gpu);
    return left > sum ? left - sum : 0;
}

/* Handles are the index plus one: a null handle is nobody's GPU. */
static int index_of(void *device) { return (int)(long)device - 1; }

#define CHECK(gpu) do { int code = fault(gpu, __func__); if (code != SUCCESS) return code; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; CHECK(-1); return SUCCESS; }
int nvmlShutdown(void) { CHECK(-1); return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    CHECK(-1);
    snprintf(version, length, "550.54.14");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    char value[VALUE];
    CHECK(-1);
    *count = lookup("count", value) ? (unsigned)atoi(value) : 0;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    CHECK((int)index);
    *device = (void *)(long)(index + 1);
    return SUCCESS;
}

static int text(int gpu, const char *name, char *out, unsigned length) {
    char value[VALUE] = "";
    of_gpu(gpu, name, value);
    snprintf(out, length, "%s", value);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *out, unsigned length) {
    CHECK(index_of(device));
    return text(index_of(device), "uuid", out, length);
}

int nvmlDeviceGetName(void *device, char *out, unsigned length) {
    CHECK(index_of(device));
    return text(index_of(device), "name", out, length);
}

int nvmlDeviceGetPciInfo_v3(void *device, pci *out) {
    char value[VALUE] = "";
    CHECK(index_of(device));
    if (!of_gpu(index_of(device), "pci", value)) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    sscanf(value, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_v1 *memory) {
    int gpu = index_of(device);
    CHECK(gpu);
    memory->total = number(gpu, "total");
    memory->free = free_bytes(gpu);
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *memory) {
    int gpu = index_of(device);
    CHECK(gpu);
    if (memory->version != 0x02000028) return INVALID_ARGUMENT;
    memory->total = number(gpu, "total");
    memory->free = free_bytes(gpu);
    memory->used = number(gpu, "used") + claimed_bytes(gpu);
    memory->reserved = number(gpu, "reserved");
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    CHECK(index_of(device));
    rates[0] = (unsigned)number(index_of(device), "gpu");
    rates[1] = 0;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    CHECK(index_of(device));
    if (sensor != 0) return INVALID_ARGUMENT;
    *celsius = (unsigned)number(index_of(device), "celsius");
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    CHECK(index_of(device));
    *milliwatts = (unsigned)number(index_of(device), "milliwatts");
    return SUCCESS;
}

typedef struct { process *out; unsigned room, count; } list;

static void append(list *to, unsigned pid, unsigned long long used) {
    if (to->out != NULL && to->count < to->room) {
        memset(&to->out[to->count], 0, sizeof *to->out);
        to->out[to->count].pid = pid;
        to->out[to->count].used = used;
    }
    to->count++;
}

static void append_claim(void *context, unsigned pid, int alive, unsigned long long bytes) {
    if (alive && bytes) append(context, pid, bytes);
}

static int processes(int gpu, const char *name, unsigned *room, process *out) {
    char value[VALUE] = "";
    list found = {out, *room, 0};
    of_gpu(gpu, name, value);
    for (char *rest = value, *item; (item = strsep(&rest, ",")) != NULL;) {
        char *bytes = strchr(item, ':');
        if (bytes == NULL) continue;
        append(&found, (unsigned)atoi(item), bytes[1] == '-' ? ~0ULL : strtoull(bytes + 1, NULL, 10));
    }
    if (strcmp(name, "compute") == 0) each_claim(gpu, append_claim, &found);
    int fits = found.count == 0 || (out != NULL && found.count <= *room);
    *room = found.count;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

#define LIST(function, name)                                              \
    int function(void *device, unsigned *room, process *out) {            \
        CHECK(index_of(device));                                          \
        return processes(index_of(device), name, room, out);              \
    }

LIST(nvmlDeviceGetComputeRunningProcesses_v2, "compute")
LIST(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")

typedef struct { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; } sample;

int nvmlDeviceGetProcessUtilization(void *device, sample *out, unsigned *room, unsigned long long since) {
    char value[VALUE] = "";
    unsigned count = 0;
    CHECK(index_of(device));
    of_gpu(index_of(device), "busy", value);
    for (char *rest = value, *item; (item = strsep(&rest, ",")) != NULL;) {
        char *percent = strchr(item, ':');
        if (percent == NULL) continue;
        if (out != NULL && count < *room) {
            memset(&out[count], 0, sizeof *out);
            out[count].pid = (unsigned)atoi(item);
            out[count].at = since + 1;
            out[count].sm = (unsigned)strtoul(percent + 1, NULL, 10);
        }
        count++;
    }
    int fits = out != NULL && count <= *room;
    *room = count;
    return count == 0 ? NOT_FOUND : fits ? SUCCESS : INSUFFICIENT_SIZE;
}
