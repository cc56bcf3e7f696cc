#!/usr/bin/env python3
"""The emulated machine's memory at its first instruction: a Linux kernel, its parameters, and the program to run.

    memory.py kernel VMLINUZ OUT                    OUT/kernel.img, header.bin and symbols for `as`: once a kernel
    memory.py program OUT RUN MIB PROGRAM [ARG…]    RUN/boot.img, RUN/files.img: once a program

It does not know the emulator, nor what the program tests. Physical addresses:

    0x0010000  parameters        0x0013000  page tables
    0x0011000  command line      0x1000000  the kernel, where it was linked to run
    0x0012000  segments          0x6000000  the first file system
"""
import os, shlex, stat, struct, subprocess, sys

PARAMETERS, COMMAND_LINE, SEGMENTS, PAGES = 0x10000, 0x11000, 0x12000, 0x13000
KERNEL, FILES = 0x1000000, 0x6000000
# Nothing to probe and nothing to wait for. `reboot=t`: a reboot is a triple fault, which ends the emulator.
# `clearcpuid=580`: not the short fast REP MOV, which Linux takes to imply the long one, which a BIOS would enable.
OPTIONS = ("console=ttyS0,115200 quiet loglevel=2 panic=-1 reboot=t clearcpuid=580 mitigations=off nokaslr nosmp "
           "nolapic noapic acpi=off pci=off tsc=reliable no_timer_check lpj=1000000 random.trust_cpu=on audit=0 "
           "apparmor=0 nowatchdog 8250.nr_uarts=1 i8042.nokbd i8042.noaux i8042.nopnp cryptomgr.notests")
# The last line but one waits until the serial port has sent everything: changing a terminal's settings does.
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
export PATH=/bin HOME=/tmp {environment}
cd /tmp
{program}
echo "exit status $?"
busybox stty -F /dev/console -echo
busybox reboot -f
"""


def kernel(image):
    """The part of a bzImage that runs in protected mode, which unpacks itself, and the header of its parameters."""
    if image[0x202:0x206] != b"HdrS" or not image[0x236] & 1:
        sys.exit("memory.py: not a Linux kernel with a 64-bit entry point")
    if KERNEL + int.from_bytes(image[0x260:0x264], "little") > FILES:
        sys.exit(f"memory.py: the kernel needs more than the room below {FILES:#x} to unpack itself")
    return image[(image[0x1F1] + 1) * 512:], image[0x1F1:0x202 + image[0x201]]


def cpio(entries):
    """Linux's archive of a first file system: (path, mode, bytes, device) each."""
    out = bytearray()
    for path, mode, data, device in [*entries, ("TRAILER!!!", 0, b"", (0, 0))]:
        name = path.encode() + b"\0"
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


def files(out, program, arguments):
    """The first file system: busybox, the program and the libraries it is linked to, and an init that runs it."""
    sources = {"/bin/busybox": os.path.join(out, "busybox"), "/bin/program": program}
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout     # nothing for a static program
    sources.update((word, word) for word in linked.split() if word.startswith("/"))
    folders = {"/proc", "/dev", "/tmp"}
    for path in sources:
        while (path := os.path.dirname(path)) != "/":
            folders.add(path)
    environment = shlex.join(os.environ.get("EMULATE_ENV", "").split())
    init = INIT.format(environment=environment, program=shlex.join(["/bin/program", *arguments]))
    entries = [(path[1:], stat.S_IFDIR | 0o755, b"", (0, 0)) for path in sorted(folders)]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    entries.append(("init", stat.S_IFREG | 0o755, init.encode(), (0, 0)))
    for path, source in sources.items():
        with open(source, "rb") as f:
            entries.append((path[1:], stat.S_IFREG | 0o755, f.read(), (0, 0)))
    return cpio(entries)


def boot(header, size, mebibytes):
    """Parameters, command line, segments and page tables: the memory from PARAMETERS on."""
    memory = bytearray(PAGES + 0x4000 - PARAMETERS)

    def put(at, form, *values):
        struct.pack_into(form, memory, at - PARAMETERS, *values)

    memory[0x1F1:0x1F1 + len(header)] = header
    put(PARAMETERS + 0x210, "<BB", 0xFF, 1)                 # loaded by something else, above 1 MiB
    put(PARAMETERS + 0x218, "<II", FILES, size)
    put(PARAMETERS + 0x228, "<I", COMMAND_LINE)
    put(PARAMETERS + 0x1E8, "<B", 2)                        # two ranges of memory: below 640 KiB, above 1 MiB
    put(PARAMETERS + 0x2D0, "<QQIQQI", 0, 0x9F000, 1, 0x100000, (mebibytes - 1) << 20, 1)
    put(COMMAND_LINE, f"{len(OPTIONS)}s", OPTIONS.encode())
    put(SEGMENTS, "<QQQQ", 0, 0x00CF9B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)   # code 32, code 64, data
    tables = [PAGES + i * 0x1000 for i in range(4)]
    put(tables[0], "<Q", tables[1] | 3)
    put(tables[1], "<QQQQ", tables[2] | 3, 0, 0, tables[3] | 3)
    put(tables[2], "<512Q", *(i << 21 | 0x83 for i in range(512)))                  # the first GiB
    put(tables[3] + 511 * 8, "<Q", 0xFFE00083)                                      # the ROM, below 4 GiB
    return memory


def write(folder, **images):
    for name, data in images.items():
        with open(os.path.join(folder, name.replace("_", ".")), "wb") as f:
            f.write(data)


def main():
    match sys.argv[1:]:
        case ["kernel", vmlinuz, out]:
            with open(vmlinuz, "rb") as f:
                image, header = kernel(f.read())
            symbols = f"ROM=0xffff0000 PAGES={PAGES} PARAMETERS={PARAMETERS} ENTRY={KERNEL + 0x200} SEGMENTS={SEGMENTS}"
            write(out, kernel_img=image, header_bin=header, symbols=symbols.encode())
        case ["program", out, run, mebibytes, program, *arguments]:
            archive = files(out, program, arguments)
            with open(os.path.join(out, "header.bin"), "rb") as f:
                write(run, files_img=archive, boot_img=boot(f.read(), len(archive), int(mebibytes)))
        case _:
            sys.exit(__doc__)


main()
