// Runs the simulated board: a clock, and a UART at the other end of the line, which samples it at the times of its own
// bits and knows nothing of the board's.
//
// Argument: cycles of a bit, as a number with a fraction. Requests on standard input, a line each: cycles at most, bytes
// to wait for (0: all the cycles), bytes to send in hexadecimal or "-". Answers: cycles so far, the LEDs, a 1 if a frame had no stop bit, and
// the bytes that came.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>

#include "Vbench.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

static uint8_t digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const double bit = atof(argv[1]);
  VerilatedContext context;
  Vbench board(&context);
  std::deque<uint8_t> sending;
  uint64_t cycle = 0;
  // The sender: a frame begins at `sent_at`. The receiver: the start bit began at `began`.
  bool busy = false, receiving = false;
  double sent_at = 0, began = 0;
  unsigned frame = 0, taken = 0, byte = 0, wrong = 0;
  bool before = true;
  board.rx = 1;

  static char line[1 << 20];
  while (fgets(line, sizeof line, stdin)) {
    unsigned long long limit = 0;
    unsigned wanted = 0;
    static char data[1 << 20];
    if (sscanf(line, "%llu %u %1048000s", &limit, &wanted, data) != 3) return 2;
    if (data[0] != '-')
      for (size_t at = 0; data[at] && data[at + 1]; at += 2)
        sending.push_back(digit(data[at]) << 4 | digit(data[at + 1]));
    std::string received;
    unsigned count = 0;
    for (uint64_t end = cycle + limit; cycle < end && (count < wanted || !wanted);) {
      if (!busy && !sending.empty()) {
        busy = true;
        frame = sending.front() << 1 | 0x200;
        sending.pop_front();
        sent_at = cycle;
      }
      if (busy) {
        const unsigned number = unsigned((cycle - sent_at) / bit);
        if (number < 10) {
          board.rx = frame >> number & 1;
        } else {
          busy = false;
          board.rx = 1;
        }
      }
      board.clk = 0;
      board.eval();
      board.clk = 1;
      board.eval();
      ++cycle;
      const bool level = board.tx;
      if (!receiving && before && !level) {
        receiving = true;
        began = cycle;
        taken = byte = 0;
      } else if (receiving && cycle >= began + (taken + 0.5) * bit) {
        if (taken == 0 && level) receiving = false;
        if (taken >= 1 && taken <= 8) byte |= unsigned(level) << (taken - 1);
        if (taken == 9) {
          receiving = false;
          wrong |= !level;
          char text[3];
          snprintf(text, sizeof text, "%02x", byte);
          received += text;
          ++count;
        }
        ++taken;
      }
      before = level;
    }
    printf("%llu %u %u %s\n", (unsigned long long)cycle, unsigned(board.leds), wrong, count ? received.c_str() : "-");
    fflush(stdout);
  }
  board.final();
  return 0;
}
