// The page that `serve` gives at /, as it is.
    .section .rodata.page, "a"
    .global page_html, page_html_end
page_html:
    .incbin "runtime/page.html"
page_html_end:
    .section .note.GNU-stack, "", %progbits
