// Put in front of libevent's http.c: evhttp's pages for its errors give way to runtime/http_refusal.c.
struct evhttp_request;
__attribute__((weak)) void evhttp_send_error(struct evhttp_request *, int, const char *);
