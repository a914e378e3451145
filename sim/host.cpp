// Linked into a model where Python has no shared library: Debian's interpreter, for one, has all of it in the program.
//
// The model is then a shared library too, which is preloaded into the Python program. This runs the simulation in place of
// the program's own main, so that cocotb finds Python's functions there.

#include <dlfcn.h>
#include <stdlib.h>

int simulate(int argc, char** argv);  // cocotb's main, renamed on the compiler's command line

namespace {
int simulate_in_place_of_main(int argc, char** argv, char**) {
    unsetenv("LD_PRELOAD");  // not for the processes that tests start
    return simulate(argc, argv);
}
}  // namespace

extern "C" int __libc_start_main(int (*)(int, char**, char**), int argc, char** argv, void (*init)(), void (*fini)(),
                                 void (*rtld_fini)(), void* stack_end) {
    auto start = reinterpret_cast<decltype(&__libc_start_main)>(dlsym(RTLD_NEXT, "__libc_start_main"));
    return start(simulate_in_place_of_main, argc, argv, init, fini, rtld_fini, stack_end);
}
