// What the user said of threads, for work that nobody hands a number: decoding files as they are opened, weights made while they are loaded.
#pragma once

namespace skiff {

// What default_thread_count() says from now on; 0: the machine's again. Before other threads start.
void set_default_thread_count(int n_threads);

}  // namespace skiff
