"""Takes from the downloaded wheels what a program that runs libtorch on a CPU needs.

usage: unpack.py WHEELS DESTINATION
"""

import os
import shutil
import sys
import zipfile

LIBRARIES = {
    "libtorch_cpu.so",
    "libc10.so",
    "libgomp.so.1",
    # libtorch_cpu of these wheels needs two CUDA libraries even where there is no GPU.
    "libcupti.so.13",
    "libcudart.so.13",
}


def main(wheels, destination):
    missing = set(LIBRARIES)
    for wheel in sorted(os.listdir(wheels)):
        if not wheel.endswith(".whl"):
            continue
        with zipfile.ZipFile(os.path.join(wheels, wheel)) as archive:
            for name in archive.namelist():
                base = os.path.basename(name)
                if base in LIBRARIES:
                    missing.discard(base)
                    target = os.path.join(destination, "lib", base)
                elif name.startswith("torch/include/") and base and ".." not in name.split("/"):
                    target = os.path.join(destination, name[len("torch/"):])
                else:
                    continue
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with archive.open(name) as source, open(target, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    if missing:
        sys.exit("not in the wheels: " + ", ".join(sorted(missing)))


main(sys.argv[1], sys.argv[2])
