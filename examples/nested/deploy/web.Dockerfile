# Not at the root of the context: deploy with --dockerfile deploy/web.Dockerfile
FROM scratch
COPY app/busybox /bin/busybox
COPY app/site /srv
ARG GREETING=hello
RUN ["/bin/busybox", "sh", "-c", "echo $GREETING > /srv/greeting.txt"]
EXPOSE 9000
CMD ["/bin/busybox", "httpd", "-f", "-p", "9000", "-h", "/srv"]
