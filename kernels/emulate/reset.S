# What the emulated processor runs after reset: real mode, protected mode, long mode, Linux's 64-bit entry point.
# It knows no devices: memory.py has put tables, parameters and kernel into memory before the first instruction,
# so that neither BIOS nor boot loader is needed. The addresses are given with `as --defsym`.

        .code16
start:  cli
        lgdtl   %cs:table - start
        movl    %cr0, %eax
        orl     $1, %eax                        # protected mode
        movl    %eax, %cr0
        ljmpl   $0x08, $(ROM + protected - start)

        .code32
protected:
        movl    $0x18, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $PAGES, %eax
        movl    %eax, %cr3
        movl    $0x20, %eax                     # physical address extension
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx               # EFER: long mode
        movl    $0x100, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $0x80000001, %eax               # paging
        movl    %eax, %cr0
        ljmpl   $0x10, $(ROM + long - start)

        .code64
long:   movl    $PARAMETERS, %esi
        movl    $ENTRY, %eax
        jmp     *%rax

table:  .word   31
        .long   SEGMENTS

        .org    start + 0xfff0                  # the reset vector, 16 bytes below the end
        .code16
        jmp     start
        .org    start + 0x10000
