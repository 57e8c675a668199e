/* Which errors does a disk give that has gone bad? The ones a test names.
 *
 * Loaded in front of libc. Calls on files whose path holds "/state.db" fail as the file named by
 * HEADGATE_TEST_DISK says: "OPERATIONS ERRNO", with w for writes, s for syncs and o for opening
 * to write. No such file, or an empty one: the disk is well. Reads are never touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int faulty(char operation) {
    const char *said = getenv("HEADGATE_TEST_DISK");
    char operations[8] = "";
    int error = 0;
    FILE *file = said ? fopen(said, "re") : NULL;
    if (!file) return 0;
    int read = fscanf(file, "%7s %d", operations, &error);
    fclose(file);
    if (read != 2 || !strchr(operations, operation)) return 0;
    errno = error;
    return 1;
}

static int ours(const char *path) { return strstr(path, "/state.db") != NULL; }

static int of_ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

#define GUARDED(operation, type, name, parameters, ...)             \
    type name parameters {                                          \
        if (of_ours(fd) && faulty(operation)) return -1;            \
        return REAL(name)(__VA_ARGS__);                             \
    }

GUARDED('s', int, fsync, (int fd), fd)
GUARDED('s', int, fdatasync, (int fd), fd)
GUARDED('w', int, ftruncate, (int fd, off_t to), fd, to)
GUARDED('w', int, ftruncate64, (int fd, off64_t to), fd, to)
GUARDED('w', ssize_t, write, (int fd, const void *from, size_t size), fd, from, size)
GUARDED('w', ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), fd, from, size, at)
GUARDED('w', ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), fd, from, size,
        at)

#define OPENER(name)                                                              \
    int name(const char *path, int flags, ...) {                                  \
        va_list rest;                                                             \
        va_start(rest, flags);                                                    \
        mode_t mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0;               \
        va_end(rest);                                                             \
        if ((flags & O_ACCMODE) != O_RDONLY && ours(path) && faulty('o')) return -1; \
        return REAL(name)(path, flags, mode);                                     \
    }

OPENER(open)
OPENER(open64)
