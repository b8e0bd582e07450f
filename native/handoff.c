/* Preloaded into a database engine: gives its accept() the client connections that Zorya hands over.
 *
 * The engine creates and binds a listening socket as it always does. When it calls listen() on the one that
 * ZORYA_HANDOFF_LISTENER names (the path of a Unix socket, or a TCP port), a datagram socket takes its place, bound to
 * the path ZORYA_HANDOFF_SOCKET. Zorya sends one datagram for each client: the client's address as the data, and two
 * descriptors, the client's connection and one end of a socket pair on which a single byte says that the engine has
 * it. A datagram comes whole or not at all, so no sender can keep the engine waiting. Other sockets are left alone.
 *
 * It fits servers that wait with select, poll or epoll and call accept or accept4: PostgreSQL, MariaDB.
 *
 * A third descriptor is a prologue, one end of a stream socket pair on which Zorya conducts the client's start. The
 * engine's recv() and send() on the client go there, until Zorya shuts its end down for writing and the engine has read
 * all that came before; from then on they go to the client, on which nothing was touched. A prologue fits servers that
 * serve each client in a process of its own: PostgreSQL. One with threads needs a place for each client here, and has
 * to call recv() before it waits for the client itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* Datagrams that one accept() looks at: after one that fails PostgreSQL writes to its log and sleeps for 100 ms. */
enum { ATTEMPTS = 16 };

enum { NOBODY = INT_MIN }; /* no descriptor, not even a wrong one that an engine might pass */

static char listener[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* what ZORYA_HANDOFF_LISTENER says */
static struct sockaddr_un inlet = {.sun_family = AF_UNIX};         /* where the datagrams come in */
static uid_t sender;                                               /* the only user who may send them */
static int conducted = NOBODY;                                     /* the client that has a prologue */
static int prologue;                                               /* the engine's end of it */

/* Take the settings out of the environment, so that nothing that the engine starts inherits them or this library. */
__attribute__((constructor)) static void configure(void)
{
    const char *at = getenv("ZORYA_HANDOFF_LISTENER"), *path = getenv("ZORYA_HANDOFF_SOCKET");
    const char *uid = getenv("ZORYA_HANDOFF_UID");

    if (at && path && uid && strlen(at) < sizeof listener && strlen(path) < sizeof inlet.sun_path) {
        char *end;
        sender = (uid_t)strtoul(uid, &end, 10);
        if (end != uid && !*end) { /* no number would otherwise be 0, which is root */
            strcpy(listener, at);
            strcpy(inlet.sun_path, path);
        }
    }
    unsetenv("ZORYA_HANDOFF_LISTENER");
    unsetenv("ZORYA_HANDOFF_SOCKET");
    unsetenv("ZORYA_HANDOFF_UID");
    unsetenv("LD_PRELOAD");
}

/* Whether the socket is bound to this, the path of a Unix socket or a TCP port. Nothing is bound to an empty one. */
static int is_bound(int fd, const char *to)
{
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_in inet;
        struct sockaddr_storage largest;
    } at = {.largest = {0}};
    socklen_t size = sizeof at - 1; /* the last byte stays zero: a Unix path need not end with one */
    int port = atoi(to);            /* 0 for a path */

    if (!*to || getsockname(fd, &at.any, &size))
        return 0;
    switch (at.any.sa_family) {
    case AF_UNIX:
        return !strcmp(at.local.sun_path, to);
    case AF_INET:
    case AF_INET6: /* the port is in the same place */
        return port && ntohs(at.inet.sin_port) == port;
    }
    return 0;
}

/* Put the datagram socket in the place of the listening one, under the same number and with the same flags. */
static int open_inlet(int fd)
{
    const int on = 1;
    int inherited = fcntl(fd, F_GETFD), flags = fcntl(fd, F_GETFL);
    int made = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), failed, why;

    if (made < 0)
        return -1;
    unlink(inlet.sun_path);
    /* Linux gives the path the socket's mode: there is no moment at which others than this user and root can send. */
    failed = fchmod(made, S_IRUSR | S_IWUSR) || setsockopt(made, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) ||
             bind(made, (struct sockaddr *)&inlet, sizeof inlet) || fcntl(made, F_SETFL, flags) ||
             dup3(made, fd, inherited & FD_CLOEXEC ? O_CLOEXEC : 0) < 0;
    why = errno;
    close(made);
    errno = why;
    return failed ? -1 : 0;
}

/* The domain of a stream socket, AF_UNSPEC for anything else. */
static int stream_domain(int fd)
{
    int domain = AF_UNSPEC, type = 0;
    socklen_t size = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size))
        return AF_UNSPEC;
    return domain;
}

/* Whether it is a TCP connection, which the engine takes for granted, and a whole address. */
static int is_client(int fd, const struct sockaddr_storage *from, ssize_t length)
{
    int domain = stream_domain(fd);

    return ((from->ss_family == AF_INET && length == sizeof(struct sockaddr_in)) ||
            (from->ss_family == AF_INET6 && length == sizeof(struct sockaddr_in6))) &&
           (domain == AF_INET || domain == AF_INET6);
}

/* Receive one datagram. Answer the client's connection, or -1 with errno EAGAIN when none waits, ECONNABORTED for one
 * that is wrong or that Zorya has given up, EMFILE when there is no number left for its descriptors. */
static int receive(int fd, struct sockaddr_storage *from, socklen_t *size)
{
    union {
        char space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(3 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec data = {from, sizeof *from};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int given[sizeof control / sizeof(int)], count = 0, trusted = 0, cut, whole, kept;
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
    cut = message.msg_flags & MSG_CTRUNC; /* the kernel has closed those descriptors that it could not give */
    whole = count == 2 || (count == 3 && conducted == NOBODY && stream_domain(given[2]) == AF_UNIX);
    /* It is the byte that passes the client on. When it cannot be sent, Zorya has taken the client back. */
    kept = trusted && !cut && whole && is_client(given[0], from, length) &&
           send(given[1], "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
    for (int i = 0; i < count; i++)
        if (!kept || i == 1)
            close(given[i]);
    if (kept && count == 3) {
        conducted = given[0];
        prologue = given[2];
    }
    *size = (socklen_t)length;
    errno = cut && count < 3 ? EMFILE : ECONNABORTED;
    return kept ? given[0] : -1;
}

static int take(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    struct sockaddr_storage from = {0};
    socklen_t length = 0;
    int client, attempts = 0;

    do
        client = receive(fd, &from, &length);
    while (client < 0 && errno == ECONNABORTED && ++attempts < ATTEMPTS);
    if (client < 0) {
        if (attempts && errno == EAGAIN) /* for the engine's log: something did come */
            errno = ECONNABORTED;
        return -1;
    }
    /* The connection came from an event loop; accept() answers one that blocks unless it is asked not to. Not before
     * it is the engine's: Zorya's own descriptor shares this flag, and Zorya goes on with a client that is refused. */
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
    return is_bound(fd, listener) ? open_inlet(fd) : (int)syscall(SYS_listen, fd, backlog);
}

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    return is_bound(fd, inlet.sun_path) ? take(fd, address, size, flags)
                                        : (int)syscall(SYS_accept4, fd, address, size, flags);
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *size)
{
    return accept4(fd, address, size, 0);
}

static void end_prologue(void)
{
    syscall(SYS_close, prologue);
    conducted = NOBODY;
}

/* Wait for the prologue, whether or not the engine waits in recv() and send(): where it would wait instead, it would
 * see the client only. A signal ends the wait with what the engine expects of the client's connection: EINTR of one
 * that blocks, else EAGAIN. PostgreSQL, whose connections do not block, then looks at its latch, which its signal
 * handlers have set, and does what they ask before it comes again; on EINTR it comes again at once. */
static int wait_for(short what)
{
    struct pollfd one = {.fd = prologue, .events = what};

    if (poll(&one, 1, -1) > 0)
        return 1;
    if (fcntl(conducted, F_GETFL) & O_NONBLOCK)
        errno = EAGAIN;
    return 0;
}

__attribute__((noinline)) static ssize_t read_prologue(int client, void *into, size_t size, int flags)
{
    ssize_t count;

    do
        count = recvfrom(prologue, into, size, flags | MSG_DONTWAIT, NULL, NULL);
    while (count < 0 && errno == EAGAIN && !(flags & (MSG_DONTWAIT | MSG_PEEK)) && wait_for(POLLIN));
    if (count || !size)
        return count;
    /* Zorya has finished only if it still listens. If it has died the start may be half done: the client is lost. */
    if (poll(&(struct pollfd){.fd = prologue}, 1, 0) > 0) {
        errno = ECONNRESET;
        return -1;
    }
    end_prologue();
    return recvfrom(client, into, size, flags, NULL, NULL);
}

__attribute__((noinline)) static ssize_t write_prologue(const void *from, size_t size, int flags)
{
    ssize_t count;

    do
        count = sendto(prologue, from, size, flags | MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    while (count < 0 && errno == EAGAIN && !(flags & MSG_DONTWAIT) && wait_for(POLLOUT));
    return count;
}

EXPORT ssize_t recv(int fd, void *into, size_t size, int flags)
{
    return fd == conducted ? read_prologue(fd, into, size, flags) : recvfrom(fd, into, size, flags, NULL, NULL);
}

/* What recv() is called where the compiler knows how long the buffer is and checks it (_FORTIFY_SOURCE). */
EXPORT ssize_t __recv_chk(int fd, void *into, size_t size, size_t room, int flags)
{
    if (size > room)
        abort();
    return recv(fd, into, size, flags);
}

EXPORT ssize_t send(int fd, const void *from, size_t size, int flags)
{
    return fd == conducted ? write_prologue(from, size, flags) : sendto(fd, from, size, flags, NULL, 0);
}

/* The engine's first process closes the client once another serves it, or could not be started. Without its copy of the
 * prologue, Zorya sees the end of it when that other process ends. */
EXPORT int close(int fd)
{
    if (fd == conducted)
        end_prologue();
    return (int)syscall(SYS_close, fd);
}
