/* Makes system calls on files fail and sets the wall clock of one process: an LD_PRELOAD library.
 *
 * The process itself names the folders and says what is to fail, through the faults_* functions
 * below (tests/faults.py). A folder holds its own counts, so many can be tried at a time by the
 * threads of one process. Calls on files elsewhere are left alone. Linux with glibc.
 *
 * The wall clock is set, and the disk made slow, from outside, by a file that DLM_TEST_CLOCK names;
 * see `struct hands`.
 *
 * Each call of libsqlite3 and of Python reaches libc through a symbol that stands here instead.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FOLDERS = 256, MAX_FDS = 4096 };
enum kind { OPEN, READ, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, KINDS };

struct folder {
    char path[PATH_MAX]; /* "" is a free one */
    int calls[KINDS];    /* since it was armed */
    int kind, first, times, error, failed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct folder folders[MAX_FOLDERS];
static int folder_of_fd[MAX_FDS]; /* its index + 1; 0 is none of ours */
static void (*on_sync)(const char *path);

/* --- what the test says ------------------------------------------------------------------ */

/* Watch a folder; gives its number, or -1 when there are too many. */
int faults_watch(const char *path) {
    int found = -1;
    pthread_mutex_lock(&lock);
    for (int index = 0; index < MAX_FOLDERS && found < 0; index++)
        if (!folders[index].path[0]) {
            memset(&folders[index], 0, sizeof folders[index]);
            snprintf(folders[index].path, PATH_MAX, "%s/", path);
            found = index;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

/* Let calls of a kind fail with `error` from the `first` on, counted from now and from 1; `times`
 * calls, or all if it is 0. Error 0 is a short write: half of it is written, and what follows it
 * fails as on a full disk. Error -1 fails nothing: the process stands still before the call. */
void faults_arm(int index, int kind, int first, int times, int error) {
    pthread_mutex_lock(&lock);
    struct folder *folder = &folders[index];
    memset(folder->calls, 0, sizeof folder->calls);
    folder->kind = kind, folder->first = first, folder->times = times, folder->error = error;
    folder->failed = 0;
    pthread_mutex_unlock(&lock);
}

/* Let nothing fail from now on; the counts stay. */
void faults_disarm(int index) {
    pthread_mutex_lock(&lock);
    folders[index].first = 0;
    pthread_mutex_unlock(&lock);
}

int faults_calls(int index, int kind) { return folders[index].calls[kind]; }

int faults_failed(int index) { return folders[index].failed; }

void faults_forget(int index) {
    pthread_mutex_lock(&lock);
    folders[index].path[0] = 0;
    for (int fd = 0; fd < MAX_FDS; fd++)
        if (folder_of_fd[fd] == index + 1) folder_of_fd[fd] = 0;
    pthread_mutex_unlock(&lock);
}

/* Call back after each successful sync of a file or folder that is watched, with its path. */
void faults_on_sync(void (*callback)(const char *path)) { on_sync = callback; }

/* --- what becomes of a call -------------------------------------------------------------- */

static int find_folder(const char *path) {
    char absolute[2 * PATH_MAX] = "";
    if (path[0] != '/') {
        if (!getcwd(absolute, PATH_MAX)) return 0;
        strcat(absolute, "/");
    }
    strncat(absolute, path, PATH_MAX - 1);
    size_t length = strlen(absolute);
    for (int index = 0; index < MAX_FOLDERS; index++) {
        const char *prefix = folders[index].path;
        size_t prefix_length = strlen(prefix);
        if (prefix_length && (!strncmp(absolute, prefix, prefix_length) ||
                              (length == prefix_length - 1 && !strncmp(absolute, prefix, length))))
            return index + 1;
    }
    return 0;
}

/* Count a call; 0 lets it pass, an errno makes it fail, -1 makes it write half. */
static int judge(int index_1, enum kind kind) {
    if (!index_1) return 0;
    int verdict = 0;
    pthread_mutex_lock(&lock);
    struct folder *folder = &folders[index_1 - 1];
    int count = ++folder->calls[kind];
    int times = folder->error ? folder->times : folder->times ? 2 : 0;
    if (folder->first && kind == (enum kind)folder->kind && count >= folder->first &&
        (!times || count < folder->first + times)) {
        folder->failed++;
        verdict = folder->error ? folder->error : count == folder->first ? -1 : ENOSPC;
    }
    int freezes = verdict && folder->error < 0;
    pthread_mutex_unlock(&lock);
    if (!freezes) return verdict;
    kill(getpid(), SIGSTOP);
    return 0;
}

static int judge_path(const char *path, enum kind kind) {
    pthread_mutex_lock(&lock);
    int index_1 = find_folder(path);
    pthread_mutex_unlock(&lock);
    return judge(index_1, kind);
}

static int judge_fd(int fd, enum kind kind) {
    return fd >= 0 && fd < MAX_FDS ? judge(folder_of_fd[fd], kind) : 0;
}

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < MAX_FDS) {
        pthread_mutex_lock(&lock);
        folder_of_fd[fd] = find_folder(path);
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

static void synced(int fd) {
    char link[32], path[PATH_MAX];
    if (!on_sync || fd < 0 || fd >= MAX_FDS || !folder_of_fd[fd]) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        on_sync(path);
    }
}

/* --- the calls --------------------------------------------------------------------------- */

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(verdict)          \
    do {                          \
        int verdict_ = (verdict); \
        if (verdict_) {           \
            errno = verdict_;     \
            return -1;            \
        }                         \
    } while (0)

#define MODE_OF(flags)                            \
    mode_t mode = 0;                              \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {      \
        va_list list;                             \
        va_start(list, flags);                    \
        mode = va_arg(list, mode_t);              \
        va_end(list);                             \
    }

#define WRAP_OPEN(name)                                           \
    int name(const char *path, int flags, ...) {                  \
        MODE_OF(flags)                                            \
        FAIL_IF(judge_path(path, OPEN));                          \
        return opened(REAL(name)(path, flags, mode), path);       \
    }
WRAP_OPEN(open)
WRAP_OPEN(open64)

/* A path relative to an open folder is none of ours: neither SQLite nor we use one. */
#define WRAP_OPENAT(name)                                              \
    int name(int folder, const char *path, int flags, ...) {           \
        MODE_OF(flags)                                                 \
        int ours = path[0] == '/' || folder == AT_FDCWD;               \
        FAIL_IF(ours ? judge_path(path, OPEN) : 0);                    \
        int fd = REAL(name)(folder, path, flags, mode);                \
        return ours ? opened(fd, path) : fd;                           \
    }
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < MAX_FDS) folder_of_fd[fd] = 0;
    return REAL(close)(fd);
}

ssize_t read(int fd, void *to, size_t length) {
    FAIL_IF(judge_fd(fd, READ));
    return REAL(read)(fd, to, length);
}

ssize_t write(int fd, const void *from, size_t length) {
    int verdict = judge_fd(fd, WRITE);
    if (verdict < 0) return REAL(write)(fd, from, length / 2);
    FAIL_IF(verdict);
    return REAL(write)(fd, from, length);
}

#define WRAP_READ_AT(name, offset_type)                                        \
    ssize_t name(int fd, void *to, size_t length, offset_type at) {            \
        FAIL_IF(judge_fd(fd, READ));                                           \
        return REAL(name)(fd, to, length, at);                                 \
    }
WRAP_READ_AT(pread, off_t)
WRAP_READ_AT(pread64, off64_t)

#define WRAP_WRITE_AT(name, offset_type)                                       \
    ssize_t name(int fd, const void *from, size_t length, offset_type at) {    \
        int verdict = judge_fd(fd, WRITE);                                     \
        if (verdict < 0) return REAL(name)(fd, from, length / 2, at);          \
        FAIL_IF(verdict);                                                      \
        return REAL(name)(fd, from, length, at);                               \
    }
WRAP_WRITE_AT(pwrite, off_t)
WRAP_WRITE_AT(pwrite64, off64_t)

static void take_longer(void);

#define WRAP_SYNC(name)                       \
    int name(int fd) {                        \
        FAIL_IF(judge_fd(fd, SYNC));          \
        take_longer();                        \
        int result = REAL(name)(fd);          \
        int error = errno;                    \
        if (!result) synced(fd);              \
        errno = error;                        \
        return result;                        \
    }
WRAP_SYNC(fsync)
WRAP_SYNC(fdatasync)

int ftruncate(int fd, off_t length) {
    FAIL_IF(judge_fd(fd, TRUNCATE));
    return REAL(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    FAIL_IF(judge_fd(fd, TRUNCATE));
    return REAL(ftruncate64)(fd, length);
}

int rename(const char *from, const char *to) {
    FAIL_IF(judge_path(from, RENAME));
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    FAIL_IF(judge_path(path, UNLINK));
    return REAL(unlink)(path);
}

/* --- the wall clock ---------------------------------------------------------------------- */

/* What the file holds: by how much the clock differs from the machine's; what adjtimex(2) says of
 * it, -1 is what it says anyway; and by how much each sync takes longer, which may be left out. */
struct hands {
    volatile int64_t offset_ns;
    volatile int64_t state;
    volatile int64_t sync_ns;
};

enum { NS_PER_S = 1000000000 };

static const struct hands machine = {0, -1, 0};
static const struct hands *hands = &machine;

__attribute__((constructor)) static void take_hands(void) {
    const char *path = getenv("DLM_TEST_CLOCK");
    int fd = path ? REAL(open)(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *shared = mmap(NULL, sizeof machine, PROT_READ, MAP_SHARED, fd, 0);
    if (shared != MAP_FAILED) hands = shared;
    REAL(close)(fd);
}

static int64_t nanoseconds(const struct timespec *time) {
    return (int64_t)time->tv_sec * NS_PER_S + time->tv_nsec;
}

static struct timespec timespec_of(int64_t ns) {
    struct timespec time = {ns / NS_PER_S, ns % NS_PER_S};
    return time;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int result = REAL(clock_gettime)(id, time);
    if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        *time = timespec_of(nanoseconds(time) + hands->offset_ns);
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    FAIL_IF(clock_gettime(CLOCK_REALTIME, &now));
    time->tv_sec = now.tv_sec, time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

int adjtimex(struct timex *how) {
    int state = REAL(adjtimex)(how);
    return hands->state < 0 ? state : (int)hands->state;
}

/* Python 3.10 waits for its locks until a time of the wall clock, which it has from here. */
int sem_timedwait(sem_t *restrict lock, const struct timespec *restrict until) {
    struct timespec machines = timespec_of(nanoseconds(until) - hands->offset_ns);
    return REAL(sem_timedwait)(lock, &machines);
}

static void take_longer(void) {
    struct timespec left = timespec_of(hands->sync_ns);
    while ((left.tv_sec || left.tv_nsec) && nanosleep(&left, &left) && errno == EINTR) continue;
}
