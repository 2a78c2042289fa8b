// What the connector is compared with: epoll, recv into one buffer, OpenSSL over static memory BIOs, frames counted.
//
// A TLS 1.3 client written the fast way in C. It does what the connector does (one wait and one recv for whatever has
// arrived, SSL_read of every record into one owned buffer, BodyLength and CheckSum of every frame) and nothing else.
// Compiled at run time by `python -m benchmarks`.
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

enum { WIRE = 1 << 18, PLAIN = 1 << 19 };

typedef struct {
    int fd, epoll, spin;
    SSL* ssl;
    BIO* out;
    int64_t messages, filled, wire_at, wire_n;
    volatile uint64_t* seen;  // MsgSeqNum of the last frame, for who waits for it in another process; may be null
    char wire[WIRE], plain[PLAIN];
} Receiver;

// a BIO that reads where recv has written: OpenSSL's own memory BIO would copy once more
static int wire_read(BIO* bio, char* to, int n) {
    Receiver* r = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (r->wire_at == r->wire_n) {
        BIO_set_retry_read(bio);
        return -1;
    }
    if (n > r->wire_n - r->wire_at)
        n = (int)(r->wire_n - r->wire_at);
    memcpy(to, r->wire + r->wire_at, n);
    r->wire_at += n;
    return n;
}

static long wire_ctrl(BIO* bio, int command, long number, void* pointer) {
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO* wire_bio(Receiver* r) {
    static BIO_METHOD* method;
    if (!method) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire");
        BIO_meth_set_read(method, wire_read);
        BIO_meth_set_ctrl(method, wire_ctrl);
    }
    BIO* bio = BIO_new(method);
    BIO_set_data(bio, r);
    BIO_set_init(bio, 1);
    return bio;
}

static int flush_out(Receiver* r) {
    char buffer[4096];
    int n;
    while ((n = BIO_read(r->out, buffer, sizeof buffer)) > 0)
        if (send(r->fd, buffer, n, MSG_NOSIGNAL) != n)
            return -1;  // so little is never cut
    return 0;
}

// waits until something has arrived and takes it; 0 at the end of the stream
static int64_t take(Receiver* r) {
    struct epoll_event event;
    int ready;
    do
        ready = epoll_wait(r->epoll, &event, 1, r->spin ? 0 : -1);
    while (ready == 0 || (ready < 0 && errno == EINTR));  // stopped and continued
    if (ready < 0)
        return -1;
    int64_t left = r->wire_n - r->wire_at;  // of a record that has not come whole
    memmove(r->wire, r->wire + r->wire_at, left);
    ssize_t n = recv(r->fd, r->wire + left, WIRE - left, 0);
    r->wire_at = 0;
    r->wire_n = left + (n > 0 ? n : 0);
    return n;
}

// a connected socket becomes a TLS 1.3 session; null when it cannot be
Receiver* receiver_open(int fd, int spin, volatile uint64_t* seen) {
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    Receiver* r = calloc(1, sizeof *r);
    if (!context || !r)
        return NULL;
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    r->fd = fd;
    r->spin = spin;
    r->seen = seen;
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    if (r->epoll < 0 || epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return NULL;
    r->ssl = SSL_new(context);
    r->out = BIO_new(BIO_s_mem());
    SSL_set_bio(r->ssl, wire_bio(r), r->out);
    SSL_set_connect_state(r->ssl);
    for (;;) {
        int done = SSL_do_handshake(r->ssl);
        if (flush_out(r) < 0)
            return NULL;
        if (done == 1)
            return r;
        if (SSL_get_error(r->ssl, done) != SSL_ERROR_WANT_READ || take(r) <= 0)
            return NULL;
    }
}

static int64_t number(const char* p, const char* end) {
    int64_t v = 0;
    for (; p < end && *p >= '0' && *p <= '9'; ++p)
        v = v * 10 + (*p - '0');
    return v;
}

// whole sound frames of the bytes filled are counted and dropped; 1 when something else comes: the end of a round
static int frames(Receiver* r) {
    const char *p = r->plain, *end = p + r->filled;
    int other = 0;
    while (end - p > 20) {
        if (memcmp(p, "8=FIX.4.4\0019=", 12)) {
            other = 1;
            p = end;
            break;
        }
        const char* q = memchr(p + 12, 1, end - p - 12);
        if (!q)
            break;
        const char* stop = q + 1 + number(p + 12, q);  // "10="
        if (stop + 7 > end)
            break;
        uint8_t sum = 0;
        for (const char* c = p; c < stop; ++c)
            sum += (uint8_t)*c;
        if (number(stop + 3, stop + 6) != sum)
            return -1;
        if (r->seen) {
            const char* seq = memmem(q, stop - q, "\00134=", 4);
            if (seq)
                __atomic_store_n(r->seen, (uint64_t)number(seq + 4, stop), __ATOMIC_RELEASE);
        }
        ++r->messages;
        p = stop + 7;
    }
    r->filled = end - p;
    memmove(r->plain, p, r->filled);
    return other;
}

// receives until bytes that are no frame come, which are answered; the number of messages so far, negative at the end
int64_t receiver_run(Receiver* r) {
    for (;;) {
        if (take(r) <= 0)
            return -1;
        for (int done = 0; !done;) {
            while (r->filled < PLAIN) {
                int n = SSL_read(r->ssl, r->plain + r->filled, (int)(PLAIN - r->filled));
                if (n <= 0) {
                    if (SSL_get_error(r->ssl, n) != SSL_ERROR_WANT_READ)
                        return -1;
                    done = 1;
                    break;
                }
                r->filled += n;
            }
            int other = frames(r);
            if (other < 0)
                return -2;
            if (other) {
                if (SSL_write(r->ssl, "done", 4) != 4 || flush_out(r) < 0)
                    return -1;
                return r->messages;
            }
        }
    }
}
