/* A disk that fails: loaded with LD_PRELOAD, it lets chosen calls that write to a state file or to its log fail.
 *
 * Calls on files whose names end in .ecl or .ecl-wal are counted from failing_writes_arm on; number `first` fails, and
 * then each `every`-th after it; 0: none.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long first, every, n_calls, n_failed;
static int error;

void failing_writes_arm(long first_call, long every_call, int error_number) {
    first = first_call;
    every = every_call;
    error = error_number;
    n_calls = n_failed = 0;
}

/* Returns how many calls have failed since then, and counts no more. */
long failing_writes_disarm(void) {
    first = 0;
    return n_failed;
}

static int ends_with(const char *text, const char *end) {
    size_t n_text = strlen(text), n_end = strlen(end);
    return n_text >= n_end && strcmp(text + n_text - n_end, end) == 0;
}

static int fails(int descriptor) {
    char link[64], path[4096];
    ssize_t length;
    if (first == 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    if (!ends_with(path, ".ecl") && !ends_with(path, ".ecl-wal"))
        return 0;
    n_calls++;
    if (n_calls != first && (n_calls < first || every == 0 || (n_calls - first) % every != 0))
        return 0;
    n_failed++;
    errno = error;
    return 1;
}

/* One row for each function: type of its result, name, parameters, arguments. */
#define FUNCTIONS(X)                                                                                           \
    X(ssize_t, write, (int file, const void *data, size_t n_bytes), (file, data, n_bytes))                     \
    X(ssize_t, pwrite, (int file, const void *data, size_t n_bytes, off_t start), (file, data, n_bytes, start)) \
    X(ssize_t, pwrite64, (int file, const void *data, size_t n_bytes, off64_t start), (file, data, n_bytes, start)) \
    X(int, ftruncate, (int file, off_t n_bytes), (file, n_bytes))                                              \
    X(int, ftruncate64, (int file, off64_t n_bytes), (file, n_bytes))                                          \
    X(int, fsync, (int file), (file))                                                                          \
    X(int, fdatasync, (int file), (file))

#define DEFINE(type, name, parameters, arguments)  \
    type name parameters {                         \
        static type(*next) parameters;             \
        if (fails(file))                           \
            return -1;                             \
        if (next == NULL)                          \
            *(void **)&next = dlsym(RTLD_NEXT, #name); \
        return next arguments;                     \
    }

FUNCTIONS(DEFINE)
