/* Preloaded into a database engine: gives its accept() the client connections that Zorya hands over.
 *
 * The engine creates and binds a listening socket as it always does. When it calls listen() on the one that
 * ZORYA_HANDOFF_LISTENER names (the path of a Unix socket, or a TCP port), a datagram socket takes its place, bound to
 * the path ZORYA_HANDOFF_SOCKET. Zorya sends one datagram for each client: the client's address as the data, and two
 * descriptors, the client's connection and one end of a socket pair on which a single byte says that it has arrived. A
 * datagram comes whole or not at all, so no sender can keep the engine waiting. Every other socket is left alone.
 *
 * It fits servers that wait with select, poll or epoll and call accept or accept4: PostgreSQL, MariaDB.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static char listener[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* what ZORYA_HANDOFF_LISTENER says */
static struct sockaddr_un inlet = {.sun_family = AF_UNIX};         /* where the datagrams come in */
static uid_t sender;                                               /* the only user who may send them */

/* Take the settings out of the environment, so that nothing that the engine starts inherits them or this library. */
__attribute__((constructor)) static void configure(void)
{
    const char *at = getenv("ZORYA_HANDOFF_LISTENER"), *path = getenv("ZORYA_HANDOFF_SOCKET");
    const char *uid = getenv("ZORYA_HANDOFF_UID");

    if (at && path && uid && strlen(at) < sizeof listener && strlen(path) < sizeof inlet.sun_path) {
        strcpy(listener, at);
        strcpy(inlet.sun_path, path);
        sender = (uid_t)strtoul(uid, NULL, 10);
    }
    unsetenv("ZORYA_HANDOFF_LISTENER");
    unsetenv("ZORYA_HANDOFF_SOCKET");
    unsetenv("ZORYA_HANDOFF_UID");
    unsetenv("LD_PRELOAD");
}

static int is_listener(int fd)
{
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof bound - 1; /* the last byte stays zero: a Unix path need not end with one */

    if (!listener[0] || getsockname(fd, (struct sockaddr *)&bound, &size))
        return 0;
    switch (bound.ss_family) {
    case AF_UNIX:
        return !strcmp(((struct sockaddr_un *)&bound)->sun_path, listener);
    case AF_INET:
        return listener[0] != '/' && ntohs(((struct sockaddr_in *)&bound)->sin_port) == atoi(listener);
    case AF_INET6:
        return listener[0] != '/' && ntohs(((struct sockaddr_in6 *)&bound)->sin6_port) == atoi(listener);
    }
    return 0;
}

/* Put the datagram socket in the place of the listening one, under the same number and with the same flags. */
static int open_inlet(int fd)
{
    const int on = 1;
    int inherited = fcntl(fd, F_GETFD), flags = fcntl(fd, F_GETFL);
    int made = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (made < 0)
        return -1;
    unlink(inlet.sun_path);
    if (setsockopt(made, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) ||
        bind(made, (struct sockaddr *)&inlet, sizeof inlet) || fcntl(made, F_SETFL, flags) ||
        dup3(made, fd, inherited & FD_CLOEXEC ? O_CLOEXEC : 0) < 0) {
        int why = errno;
        close(made);
        errno = why;
        return -1;
    }
    close(made);
    return 0;
}

static int is_inlet(int fd)
{
    int type = 0;
    socklen_t size = sizeof type;

    return listener[0] && !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) && type == SOCK_DGRAM;
}

/* Receive one datagram. Answer the client's connection, -1 with errno EAGAIN when none waits, or -1 with another errno
 * for a datagram that is not Zorya's. */
static int receive(int fd, struct sockaddr_storage *address, socklen_t *size)
{
    union {
        char space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec data = {address, sizeof *address};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int given[sizeof control / sizeof(int)], count = 0, trusted = 0;
    ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (length < 0)
        return -1;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
            count = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(given, CMSG_DATA(part), (size_t)count * sizeof(int));
        } else if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_CREDENTIALS) {
            struct ucred peer;
            memcpy(&peer, CMSG_DATA(part), sizeof peer);
            trusted = peer.uid == sender;
        }
    }
    if (count == 2 && trusted && !(message.msg_flags & MSG_CTRUNC) && length >= (ssize_t)sizeof(sa_family_t)) {
        *size = (socklen_t)length;
        send(given[1], "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(given[1]);
        return given[0];
    }
    while (count > 0)
        close(given[--count]);
    errno = ECONNABORTED;
    return -1;
}

static int take(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    struct sockaddr_storage from = {0};
    socklen_t length = 0;
    int client = receive(fd, &from, &length);

    if (client < 0)
        return -1;
    /* The connection came from an event loop; accept() answers one that blocks unless it is asked not to. */
    fcntl(client, F_SETFL, flags & SOCK_NONBLOCK ? O_NONBLOCK : 0);
    if (!(flags & SOCK_CLOEXEC))
        fcntl(client, F_SETFD, 0);
    if (address && size) {
        memcpy(address, &from, length < *size ? length : *size);
        *size = length;
    }
    return client;
}

EXPORT int listen(int fd, int backlog)
{
    return is_listener(fd) ? open_inlet(fd) : (int)syscall(SYS_listen, fd, backlog);
}

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    return is_inlet(fd) ? take(fd, address, size, flags) : (int)syscall(SYS_accept4, fd, address, size, flags);
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *size)
{
    return accept4(fd, address, size, 0);
}
