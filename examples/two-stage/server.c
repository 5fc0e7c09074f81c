/* Answers every request with one line: a program small enough to be compiled
   in the first stage of the build. */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const BODY = "Compiled in one stage, run in another.\n";

int main(void) {
    const char *port = getenv("PORT");
    struct sockaddr_in address = {0};
    address.sin_family = AF_INET;
    address.sin_port = htons(port ? atoi(port) : 8080);
    int one = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 64)) {
        perror("listen");
        return 1;
    }
    /* As process 1 it has no default action for SIGTERM. */
    signal(SIGTERM, _exit);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        char request[4096], answer[256];
        int client = accept(server, NULL, NULL);
        if (client < 0) continue;
        if (read(client, request, sizeof request) > 0) {
            int length = snprintf(answer, sizeof answer,
                                  "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                                  "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                                  strlen(BODY), BODY);
            write(client, answer, length);
        }
        close(client);
    }
}
