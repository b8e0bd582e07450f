/* A server for the tests of native/handoff.c that waits for connections as a database engine does and echoes.
 *
 *     acceptor postgres|mariadb LISTENER UNIX FILES
 *
 * `postgres` listens on the Unix socket LISTENER, waits with select and calls accept; `mariadb` listens on the TCP port
 * LISTENER of loopback, waits with poll and calls accept4(SOCK_CLOEXEC). Two more listening sockets are beside it: the
 * Unix socket UNIX, and TCP on a free port of 127.0.0.1. FILES is how many descriptors it may have. What happens is said
 * on standard output, a line each:
 *
 *     environment NAME=VALUE                what a program has that this one starts; one line for each variable
 *     unrelated ERRNO                       what accept on a datagram socket failed with
 *     no listener ERRNO                     what listen on LISTENER failed with
 *     ready PORT                            of the TCP socket beside
 *     accepted given|unix|tcp PEER PORT blocking|nonblocking cloexec|inherited RAW REAL
 *                                           the last two: the address from accept, and from getpeername, in hex
 *     failed ERRNO                          an accept
 *     closed                                a client has left
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
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { GIVEN, UNIX, TCP, LISTENERS, MOST = 128 };

static const char *const names[] = {"given", "unix", "tcp"};
static struct pollfd watched[MOST]; /* the listeners, then the clients; -1 where there is none */
static int like_mariadb;

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
    while (watched[slot].fd >= 0)
        if (++slot == MOST)
            fail("too many clients");
    watched[slot] = (struct pollfd){.fd = client, .events = POLLIN};
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
}

static void echo(struct pollfd *client)
{
    char bytes[4096];
    ssize_t count = read(client->fd, bytes, sizeof bytes);

    if (count > 0 && write(client->fd, bytes, (size_t)count) == count)
        return;
    close(client->fd);
    client->fd = -1;
    printf("closed\n");
}

static void wait_with_select(void)
{
    fd_set readable;

    FD_ZERO(&readable);
    for (int i = 0; i < MOST; i++)
        if (watched[i].fd >= 0)
            FD_SET(watched[i].fd, &readable);
    if (select(FD_SETSIZE, &readable, NULL, NULL, NULL) < 0)
        fail("select");
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
    show_environment();
    accept(unrelated, NULL, NULL);
    printf("unrelated %d\n", errno);
    close(unrelated);
    for (int i = 0; i < MOST; i++)
        watched[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    like_mariadb = !strcmp(argv[1], "mariadb");
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
