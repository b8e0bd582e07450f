/* A server for the tests of native/handoff.c that waits for connections as a database engine does and echoes.
 *
 *     acceptor postgres|forking|mariadb LISTENER UNIX FILES
 *
 * `postgres` listens on the Unix socket LISTENER, waits with select and calls accept; `forking` does too, and serves
 * each client in a process of its own, on a connection that it makes non-blocking; `mariadb` listens on the TCP port
 * LISTENER of loopback, waits with poll and calls accept4(SOCK_CLOEXEC). Two more listening sockets are beside it: the
 * Unix socket UNIX, and TCP on a free port of 127.0.0.1. FILES is how many descriptors it may have. SIGUSR1 does
 * nothing but interrupt. What happens is said on standard output, a line each:
 *
 *     environment NAME=VALUE                what a program has that this one starts; one line for each variable
 *     unrelated ERRNO                       what accept on a datagram socket failed with
 *     no listener ERRNO                     what listen on LISTENER failed with
 *     ready PORT                            of the TCP socket beside
 *     accepted given|unix|tcp PEER PORT blocking|nonblocking cloexec|inherited RAW REAL
 *                                           the last two: the address from accept, and from getpeername, in hex
 *     failed ERRNO                          an accept
 *     serving PID                           which process a client has
 *     looked PEEK DONTWAIT                  the process's first two calls, recv with these flags: 0, or errno
 *     interrupted ERRNO                     what recv answered that waited
 *     closed ERRNO                          a client has left; 0, or what recv or send failed with
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { GIVEN, UNIX, TCP, LISTENERS, MOST = 128 };

static const char *const names[] = {"given", "unix", "tcp"};
static struct pollfd watched[MOST]; /* the listeners, then the clients; -1 where there is none */
static int like_mariadb, forks;
static volatile sig_atomic_t signalled;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int bind_unix(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int made = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    if (bind(made, (struct sockaddr *)&at, sizeof at))
        fail(path);
    return made;
}

static int bind_tcp(int port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((in_port_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int made = socket(AF_INET, SOCK_STREAM, 0), on = 1;

    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(made, (struct sockaddr *)&at, sizeof at))
        fail("TCP");
    return made;
}

static void note_signal(int number)
{
    (void)number;
    signalled = 1;
}

/* As PostgreSQL does: it tries, and waits for its client when there is nothing, unless a signal came meanwhile. */
static void serve(int client)
{
    char bytes[4096];
    struct pollfd one = {.fd = client, .events = POLLIN};
    int peeked = recv(client, bytes, 1, MSG_PEEK) < 0 ? errno : 0;
    ssize_t count = recv(client, bytes, sizeof bytes, MSG_DONTWAIT);

    printf("looked %d %d\n", peeked, count < 0 ? errno : 0);
    if (count < 0)
        count = recv(client, bytes, sizeof bytes, 0);
    for (; count; count = recv(client, bytes, sizeof bytes, 0)) {
        if (count < 0 && errno != EAGAIN)
            break;
        if (count < 0 && signalled) {
            signalled = 0;
            printf("interrupted %d\n", EAGAIN);
        } else if (count < 0) {
            poll(&one, 1, -1);
        }
        for (ssize_t sent = 0, more; sent < count; sent += more > 0 ? more : 0) {
            more = send(client, bytes + sent, (size_t)(count - sent), 0);
            if (more < 0 && errno != EAGAIN) {
                printf("closed %d\n", errno);
                exit(0);
            }
        }
    }
    printf("closed %d\n", count < 0 ? errno : 0);
    exit(0);
}

static void fork_for(int client)
{
    pid_t child = fork();

    if (child < 0)
        fail("fork");
    if (child) {
        close(client);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    printf("serving %d\n", getpid());
    fcntl(client, F_SETFL, O_NONBLOCK);
    serve(client);
}

static void print_hex(const struct sockaddr_storage *address, socklen_t size)
{
    putchar(' ');
    for (socklen_t i = 0; i < size; i++)
        printf("%02x", ((const unsigned char *)address)[i]);
}

static void accept_from(int which)
{
    struct sockaddr_storage peer = {0}, real = {0};
    socklen_t size = sizeof peer, real_size = sizeof real;
    char host[NI_MAXHOST] = "-", port[NI_MAXSERV] = "-";
    int fd = watched[which].fd, client, slot = LISTENERS;

    client = like_mariadb ? accept4(fd, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC)
                          : accept(fd, (struct sockaddr *)&peer, &size);
    if (client < 0) {
        printf("failed %d\n", errno);
        return;
    }
    if (which != UNIX)
        getnameinfo((struct sockaddr *)&peer, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    printf("accepted %s %s %s %s %s", names[which], host, port,
           fcntl(client, F_GETFL) & O_NONBLOCK ? "nonblocking" : "blocking",
           fcntl(client, F_GETFD) & FD_CLOEXEC ? "cloexec" : "inherited");
    print_hex(&peer, size);
    getpeername(client, (struct sockaddr *)&real, &real_size);
    print_hex(&real, real_size);
    putchar('\n');
    if (forks) {
        fork_for(client);
        return;
    }
    while (watched[slot].fd >= 0)
        if (++slot == MOST)
            fail("too many clients");
    watched[slot] = (struct pollfd){.fd = client, .events = POLLIN};
}

static void echo(struct pollfd *client)
{
    char bytes[4096];
    ssize_t count = recv(client->fd, bytes, sizeof bytes, 0);

    if (count < 0 && errno == EINTR) {
        printf("interrupted %d\n", errno);
        return;
    }
    if (count > 0 && send(client->fd, bytes, (size_t)count, 0) == count)
        return;
    printf("closed %d\n", count ? errno : 0);
    close(client->fd);
    client->fd = -1;
}

static void wait_with_select(void)
{
    fd_set readable;

    FD_ZERO(&readable);
    for (int i = 0; i < MOST; i++)
        if (watched[i].fd >= 0)
            FD_SET(watched[i].fd, &readable);
    if (select(FD_SETSIZE, &readable, NULL, NULL, NULL) < 0) {
        if (errno != EINTR)
            fail("select");
        FD_ZERO(&readable);
    }
    for (int i = 0; i < MOST; i++)
        watched[i].revents = watched[i].fd >= 0 && FD_ISSET(watched[i].fd, &readable) ? POLLIN : 0;
}

static void wait_with_poll(void)
{
    while (poll(watched, MOST, -1) < 0)
        if (errno != EINTR)
            fail("poll");
}

static void show_environment(void)
{
    char line[8192];
    FILE *from = popen("env", "r");

    while (from && fgets(line, sizeof line, from))
        printf("environment %s", line);
    if (!from || pclose(from))
        fail("env");
}

int main(int argc, char **argv)
{
    struct sigaction on_signal = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    struct rlimit limit;
    struct sockaddr_in at;
    socklen_t size = sizeof at;
    int unrelated = socket(AF_UNIX, SOCK_DGRAM, 0);

    if (argc != 5)
        return 2;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = (rlim_t)atoi(argv[4]);
    if (setrlimit(RLIMIT_NOFILE, &limit))
        fail("setrlimit");
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGUSR1, &on_signal, NULL);
    show_environment();
    signal(SIGCHLD, SIG_IGN);
    accept(unrelated, NULL, NULL);
    printf("unrelated %d\n", errno);
    close(unrelated);
    for (int i = 0; i < MOST; i++)
        watched[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    like_mariadb = !strcmp(argv[1], "mariadb");
    forks = !strcmp(argv[1], "forking");
    watched[GIVEN].fd = like_mariadb ? bind_tcp(atoi(argv[2])) : bind_unix(argv[2]);
    watched[UNIX].fd = bind_unix(argv[3]);
    watched[TCP].fd = bind_tcp(0);
    if (listen(watched[GIVEN].fd, 100)) {
        printf("no listener %d\n", errno);
        close(watched[GIVEN].fd);
        watched[GIVEN].fd = -1;
    }
    if (listen(watched[UNIX].fd, 100) || listen(watched[TCP].fd, 100) ||
        getsockname(watched[TCP].fd, (struct sockaddr *)&at, &size))
        fail("listen");
    printf("ready %d\n", ntohs(at.sin_port));
    for (;;) {
        if (!like_mariadb)
            wait_with_select();
        else
            wait_with_poll();
        for (int i = 0; i < MOST; i++) {
            if (watched[i].fd < 0 || !watched[i].revents)
                continue;
            if (i < LISTENERS)
                accept_from(i);
            else
                echo(&watched[i]);
        }
    }
}
