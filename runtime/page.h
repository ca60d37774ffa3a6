// The page that `serve` gives at /: runtime/page.html, as it is (page.S).
#ifndef PAGE_H
#define PAGE_H

extern const unsigned char page_html[], page_html_end[];

#endif
