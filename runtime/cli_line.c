// A small line editor: one row that scrolls sideways, the keys that Emacs and shells have in common,
// history, pastes in brackets. The terminal is asked for nothing but ANSI's cursor moves.
//
// libedit was measured in its place (Debian 12, 2026-11-21): with libbsd, libmd and libtinfo it adds
// 300 KB, reads ~/.editrc, starts editors, wants a terminfo database and a glibc of 2022; an
// executable is to run on older systems and to read no file that it was not given.
//
// Non-goals: several rows, completion, right-to-left text. Source for the row's refresh: linenoise.
#include "cli_line.h"

#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

enum { MAX_HISTORY = 200, MAX_LINE = 1 << 20, DEFAULT_COLUMNS = 80 };

// A text that grows. Always zero-terminated once it has room.
typedef struct Row {
    char *data;
    size_t size, room;
} Row;

struct LineReader {
    bool edited;
    bool pasting;  // inside of a paste, where newlines are text
    Row row;       // the line that is edited
    size_t cursor; // in row, between characters
    Row killed;    // what Ctrl-Y gives back
    Row draft;     // the new line, while history is shown
    Row shown;     // what is sent to the terminal
    char *history[MAX_HISTORY];
    int history_count, history_at; // history_at == history_count: the new line
    struct termios before;
};

static bool row_add(Row *row, const char *text, size_t size) {
    if (row->size + size + 1 > row->room) {
        size_t room = 2 * (row->size + size) + 128;
        char *bigger = row->size + size < MAX_LINE ? realloc(row->data, room) : NULL;
        if (!bigger)
            return false;
        row->data = bigger;
        row->room = room;
    }
    memcpy(row->data + row->size, text, size);
    row->size += size;
    row->data[row->size] = 0;
    return true;
}

static bool row_set(Row *row, const char *text, size_t size) {
    row->size = 0;
    return row_add(row, text, size);
}

// ---- characters ---------------------------------------------------------------------------------

static bool continues(char byte) {
    return ((unsigned char)byte & 0xc0) == 0x80;
}

static size_t after(const Row *row, size_t at) {
    while (at < row->size && continues(row->data[++at]))
        continue;
    return at;
}

static size_t before(const Row *row, size_t at) {
    while (at > 0 && continues(row->data[--at]))
        continue;
    return at;
}

static bool is_blank(char byte) {
    return byte == ' ' || byte == '\t' || byte == '\n';
}

static size_t word_before(const Row *row, size_t at) {
    while (at > 0 && is_blank(row->data[at - 1]))
        at--;
    while (at > 0 && !is_blank(row->data[at - 1]))
        at--;
    return at;
}

static size_t word_after(const Row *row, size_t at) {
    while (at < row->size && is_blank(row->data[at]))
        at++;
    while (at < row->size && !is_blank(row->data[at]))
        at++;
    return at;
}

// The character at `at` as it is shown: control characters become one that can be seen.
static int columns_of(const Row *row, size_t at, const char **text, size_t *size) {
    wchar_t wide;
    mbstate_t state = {0};
    *text = row->data + at;
    *size = after(row, at) - at;
    if ((unsigned char)**text < ' ' || **text == 0x7f) {
        bool newline = **text == '\n';
        *text = newline ? "\xe2\x86\xb5" : "?"; // U+21B5
        *size = newline ? 3 : 1;
        return 1;
    }
    size_t got = mbrtowc(&wide, *text, *size, &state);
    int columns = got > *size ? -1 : wcwidth(wide);
    if (columns >= 0)
        return columns;
    *text = "?";
    *size = 1;
    return 1;
}

// ---- showing ------------------------------------------------------------------------------------

static int terminal_columns(void) {
    struct winsize size;
    bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : DEFAULT_COLUMNS;
}

static int columns_between(const Row *row, size_t from, size_t to) {
    int all = 0;
    const char *text;
    size_t size;
    for (size_t at = from; at < to; at = after(row, at))
        all += columns_of(row, at, &text, &size);
    return all;
}

static void send(const char *text, size_t size) {
    while (size) {
        ssize_t sent = write(STDERR_FILENO, text, size);
        if (sent < 0 && errno != EINTR)
            return;
        size -= sent > 0 ? (size_t)sent : 0;
        text += sent > 0 ? sent : 0;
    }
}

// Draws the row again: as much of it as fits, with the cursor in sight.
static bool show(LineReader *r, const char *prompt) {
    const Row *row = &r->row;
    char move[32];
    int room = terminal_columns() - (int)strlen(prompt) - 1, used = 0;
    size_t start = 0;
    while (start < r->cursor && columns_between(row, start, r->cursor) > room)
        start = after(row, start);
    bool done = row_set(&r->shown, "\r", 1) && row_add(&r->shown, prompt, strlen(prompt));
    for (size_t at = start; at < row->size && done; at = after(row, at)) {
        const char *text;
        size_t size;
        used += columns_of(row, at, &text, &size);
        if (used > room)
            break;
        done = row_add(&r->shown, text, size);
    }
    int column = (int)strlen(prompt) + columns_between(row, start, r->cursor);
    int size = snprintf(move, sizeof move, "\x1b[K\r\x1b[%dC", column);
    done = done && row_add(&r->shown, move, (size_t)size);
    if (done)
        send(r->shown.data, r->shown.size);
    return done;
}

// ---- changing -----------------------------------------------------------------------------------

static bool insert(LineReader *r, const char *text, size_t size) {
    Row *row = &r->row;
    size_t behind = row->size - r->cursor;
    if (!row_add(row, text, size)) // for its room
        return false;
    memmove(row->data + r->cursor + size, row->data + r->cursor, behind);
    memcpy(row->data + r->cursor, text, size);
    r->cursor += size;
    return true;
}

static void cut(LineReader *r, size_t from, size_t to) {
    memmove(r->row.data + from, r->row.data + to, r->row.size - to + 1);
    r->row.size -= to - from;
    r->cursor = from;
}

static bool kill_part(LineReader *r, size_t from, size_t to) {
    if (from == to)
        return true;
    bool done = row_set(&r->killed, r->row.data + from, to - from);
    cut(r, from, to);
    return done;
}

static bool history_move(LineReader *r, int by) {
    int to = r->history_at + by;
    if (to < 0 || to > r->history_count)
        return true;
    bool done = r->history_at < r->history_count || row_set(&r->draft, r->row.data, r->row.size);
    bool new_line = to == r->history_count;
    const char *text = new_line ? r->draft.data : r->history[to];
    done = done && row_set(&r->row, text, new_line ? r->draft.size : strlen(text));
    r->history_at = to;
    r->cursor = r->row.size;
    return done;
}

// ---- keys ---------------------------------------------------------------------------------------

typedef enum Key { // what a key does
    KEY_NONE,
    KEY_LEFT,
    KEY_RIGHT,
    KEY_START,
    KEY_END,
    KEY_WORD_LEFT,
    KEY_WORD_RIGHT,
    KEY_UP,
    KEY_DOWN,
    KEY_BACKSPACE,
    KEY_DELETE,
    KEY_DELETE_OR_END,
    KEY_KILL_END,
    KEY_KILL_START,
    KEY_KILL_WORD,
    KEY_KILL_NEXT_WORD,
    KEY_YANK,
    KEY_CLEAR,
    KEY_SUSPEND,
    KEY_PASTE_START,
    KEY_PASTE_END,
    KEY_ENTER,
    KEY_INTERRUPT,
    KEY_CLOSED, // the terminal is gone
    KEY_TEXT,
} Key;

enum { CTRL = 0x1f }; // 'A' & CTRL is Ctrl-A

static const struct {
    const char *bytes; // behind ESC
    Key key;
} sequences[] = {
    {"[A", KEY_UP},
    {"OA", KEY_UP},
    {"[B", KEY_DOWN},
    {"OB", KEY_DOWN},
    {"[C", KEY_RIGHT},
    {"OC", KEY_RIGHT},
    {"[D", KEY_LEFT},
    {"OD", KEY_LEFT},
    {"[H", KEY_START},
    {"OH", KEY_START},
    {"[1~", KEY_START},
    {"[7~", KEY_START},
    {"[F", KEY_END},
    {"OF", KEY_END},
    {"[4~", KEY_END},
    {"[8~", KEY_END},
    {"[3~", KEY_DELETE},
    {"[1;5C", KEY_WORD_RIGHT},
    {"[1;3C", KEY_WORD_RIGHT},
    {"f", KEY_WORD_RIGHT},
    {"[1;5D", KEY_WORD_LEFT},
    {"[1;3D", KEY_WORD_LEFT},
    {"b", KEY_WORD_LEFT},
    {"d", KEY_KILL_NEXT_WORD},
    {"\x7f", KEY_KILL_WORD},
    {"[200~", KEY_PASTE_START},
    {"[201~", KEY_PASTE_END},
};

static const Key controls[32] = {
    ['A' & CTRL] = KEY_START,     ['B' & CTRL] = KEY_LEFT,
    ['C' & CTRL] = KEY_INTERRUPT, ['D' & CTRL] = KEY_DELETE_OR_END,
    ['E' & CTRL] = KEY_END,       ['F' & CTRL] = KEY_RIGHT,
    ['H' & CTRL] = KEY_BACKSPACE, ['J' & CTRL] = KEY_ENTER,
    ['K' & CTRL] = KEY_KILL_END,  ['L' & CTRL] = KEY_CLEAR,
    ['M' & CTRL] = KEY_ENTER,     ['N' & CTRL] = KEY_DOWN,
    ['P' & CTRL] = KEY_UP,        ['U' & CTRL] = KEY_KILL_START,
    ['W' & CTRL] = KEY_KILL_WORD, ['Y' & CTRL] = KEY_YANK,
    ['Z' & CTRL] = KEY_SUSPEND,
};

static bool byte_read(char *out, int wait_ms) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        int ready = poll(&in, 1, wait_ms);
        if (ready == 0)
            return false;
        if (ready < 0 && errno == EINTR)
            continue;
        ssize_t got = ready > 0 ? read(STDIN_FILENO, out, 1) : -1;
        if (got < 0 && errno == EINTR)
            continue;
        return got == 1;
    }
}

// Behind ESC.
static Key sequence_read(void) {
    enum { WAIT_MS = 50 }; // between the bytes of one key
    char bytes[8] = {0};
    for (size_t size = 0; size + 1 < sizeof bytes; size++) {
        if (!byte_read(&bytes[size], WAIT_MS))
            return KEY_NONE;
        for (size_t at = 0; at < sizeof sequences / sizeof *sequences; at++)
            if (strcmp(sequences[at].bytes, bytes) == 0)
                return sequences[at].key;
        bool final = bytes[size] >= '@' && bytes[size] <= '~' && !(size == 0 && bytes[0] == '[') &&
                     !(size == 0 && bytes[0] == 'O');
        if (final || (unsigned char)bytes[size] < ' ')
            return KEY_NONE; // a key that we do not have
    }
    return KEY_NONE;
}

// One key; KEY_TEXT: a character in text[0, *size).
static Key key_read(char text[4], size_t *size) {
    if (!byte_read(&text[0], -1))
        return KEY_CLOSED;
    unsigned char first = (unsigned char)text[0];
    *size = 1;
    if (first == 0x1b)
        return sequence_read();
    if (first == 0x7f)
        return KEY_BACKSPACE;
    if (first < ' ')
        return controls[first];
    size_t wanted = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    while (*size < wanted && byte_read(&text[*size], -1))
        ++*size;
    return KEY_TEXT;
}

// ---- the terminal -------------------------------------------------------------------------------

static bool raw_start(LineReader *r) {
    static const char pastes_on[] = "\x1b[?2004h";
    if (tcgetattr(STDIN_FILENO, &r->before) != 0)
        return false;
    struct termios raw = r->before;
    raw.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) != 0)
        return false;
    send(pastes_on, sizeof pastes_on - 1);
    return true;
}

static void raw_end(LineReader *r) {
    static const char pastes_off[] = "\x1b[?2004l";
    send(pastes_off, sizeof pastes_off - 1);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &r->before);
}

// Does what a key says; *more: the line goes on.
static bool key_do(LineReader *r, Key key, const char *text, size_t size, LineResult *result,
                   bool *more) {
    Row *row = &r->row;
    switch (key) {
    case KEY_NONE:
        break;
    case KEY_LEFT:
        r->cursor = before(row, r->cursor);
        break;
    case KEY_RIGHT:
        r->cursor = after(row, r->cursor);
        break;
    case KEY_START:
        r->cursor = 0;
        break;
    case KEY_END:
        r->cursor = row->size;
        break;
    case KEY_WORD_LEFT:
        r->cursor = word_before(row, r->cursor);
        break;
    case KEY_WORD_RIGHT:
        r->cursor = word_after(row, r->cursor);
        break;
    case KEY_UP:
        return history_move(r, -1);
    case KEY_DOWN:
        return history_move(r, 1);
    case KEY_BACKSPACE:
        cut(r, before(row, r->cursor), r->cursor);
        break;
    case KEY_DELETE_OR_END:
        *result = LINE_END;
        *more = row->size > 0;
        if (!*more)
            break;
        cut(r, r->cursor, after(row, r->cursor));
        break;
    case KEY_DELETE:
        cut(r, r->cursor, after(row, r->cursor));
        break;
    case KEY_KILL_END:
        return kill_part(r, r->cursor, row->size);
    case KEY_KILL_START:
        return kill_part(r, 0, r->cursor);
    case KEY_KILL_WORD:
        return kill_part(r, word_before(row, r->cursor), r->cursor);
    case KEY_KILL_NEXT_WORD:
        return kill_part(r, r->cursor, word_after(row, r->cursor));
    case KEY_YANK:
        return !r->killed.size || insert(r, r->killed.data, r->killed.size);
    case KEY_CLEAR:
        send("\x1b[H\x1b[2J", 7);
        break;
    case KEY_SUSPEND:
        raw_end(r);
        raise(SIGTSTP);
        return raw_start(r);
    case KEY_PASTE_START:
    case KEY_PASTE_END:
        r->pasting = key == KEY_PASTE_START;
        break;
    case KEY_ENTER:
        if (r->pasting)
            return insert(r, "\n", 1);
        *result = LINE_TEXT;
        *more = false;
        break;
    case KEY_INTERRUPT:
        *result = LINE_INTERRUPT;
        *more = false;
        break;
    case KEY_CLOSED:
        *result = LINE_END;
        *more = false;
        break;
    case KEY_TEXT:
        return insert(r, text, size);
    }
    return true;
}

static bool row_edit(LineReader *r, const char *prompt, LineResult *result, Error *err) {
    bool more = true, done = row_set(&r->row, "", 0) && row_set(&r->draft, "", 0);
    r->cursor = 0;
    r->pasting = false;
    r->history_at = r->history_count;
    if (!raw_start(r))
        return fail(err, ERR_INTERNAL, 1251, "the terminal cannot be set up: %s", strerror(errno));
    while (done && more) {
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        char text[4];
        size_t size;
        if (poll(&in, 1, 0) <= 0) // what is pasted is shown once
            done = show(r, prompt);
        Key key = key_read(text, &size);
        done = done && key_do(r, key, text, size, result, &more);
    }
    r->cursor = r->row.size;
    done = done && show(r, prompt);
    raw_end(r);
    send("\n", 1);
    return done || fail(err, ERR_RESOURCE, 1252, "a line has more than %d bytes", MAX_LINE);
}

// ---- public -------------------------------------------------------------------------------------

bool line_open(LineReader **out, Error *err) {
    const char *terminal = getenv("TERM");
    LineReader *r = calloc(1, sizeof *r);
    if (!r)
        return fail(err, ERR_RESOURCE, 1253, "no memory to read lines");
    r->edited =
        isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
    if (r->edited)
        setlocale(LC_CTYPE, "C.UTF-8"); // for the width of characters; without it they are "?"
    *out = r;
    return true;
}

void line_close(LineReader *r) {
    if (!r)
        return;
    for (int at = 0; at < r->history_count; at++)
        free(r->history[at]);
    free(r->row.data);
    free(r->killed.data);
    free(r->draft.data);
    free(r->shown.data);
    free(r);
}

bool line_edited(const LineReader *r) {
    return r->edited;
}

bool line_read(LineReader *r, const char *prompt, LineResult *result, const char **line,
               size_t *size, Error *err) {
    *line = "";
    *size = 0;
    if (r->edited) {
        TRY(row_edit(r, prompt, result, err));
    } else {
        if (isatty(STDIN_FILENO))
            send(prompt, strlen(prompt));
        errno = 0;
        ssize_t got = getline(&r->row.data, &r->row.room, stdin);
        *result = got >= 0 ? LINE_TEXT : errno == EINTR ? LINE_INTERRUPT : LINE_END;
        clearerr(stdin);
        r->row.size = got > 0 ? (size_t)got : 0;
        if (got > 0 && r->row.data[got - 1] == '\n')
            r->row.data[--r->row.size] = 0;
    }
    if (*result == LINE_TEXT && r->row.size) {
        *line = r->row.data;
        *size = r->row.size;
    }
    return true;
}

bool line_remember(LineReader *r, const char *line, size_t size, Error *err) {
    char *copy = strndup(line, size);
    if (!copy)
        return fail(err, ERR_RESOURCE, 1254, "no memory for the history");
    if (r->history_count == MAX_HISTORY) {
        free(r->history[0]);
        memmove(r->history, r->history + 1, (MAX_HISTORY - 1) * sizeof *r->history);
        r->history_count--;
    }
    r->history[r->history_count++] = copy;
    return true;
}
