// The command line: finds the verb, reads its options, runs it, turns an Error into a message and an exit code.
#pragma once

namespace skiff {

int run_command_line(int argc, char** argv);

}  // namespace skiff
