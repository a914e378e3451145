/* Run one program, and wait for its end: by looking, and by interrupt. Put these into firmware of your own. */
#include "@NAME@_driver.h"

/* What puts the processor to sleep until an interrupt. */
#ifndef MSVQ_SLEEP
#define MSVQ_SLEEP() ((void)0)
#endif

static volatile uint32_t happened;

/* Called by the interrupt controller. */
void @NAME@_handler(msvq_device device) { happened |= msvq_interrupt(device); }

/* The image and the input are in DRAM. 0: the results are there, too; a cause of MSVQ_CAUSE_*; or an msvq_result. */
int @NAME@_run_polled(msvq_device device, uint64_t address, uint32_t descriptors) {
  msvq_result result = msvq_check(device);
  if (result == MSVQ_OK) result = msvq_start(device, address, descriptors, 0);
  if (result == MSVQ_OK) result = msvq_wait(device, 0);
  if (result != MSVQ_OK) return result;
  return msvq_status(device) == MSVQ_DONE ? 0 : (int)msvq_cause(device);
}

/* The same, asleep meanwhile. */
int @NAME@_run(msvq_device device, uint64_t address, uint32_t descriptors) {
  msvq_result result = msvq_check(device);
  happened = 0;
  if (result == MSVQ_OK)
    result = msvq_start(device, address, descriptors, MSVQ_INTERRUPT_ENABLE_DONE | MSVQ_INTERRUPT_ENABLE_FAILED);
  if (result != MSVQ_OK) return result;
  while (!(happened & (MSVQ_INTERRUPT_DONE | MSVQ_INTERRUPT_FAILED))) MSVQ_SLEEP();
  return msvq_status(device) == MSVQ_DONE ? 0 : (int)msvq_cause(device);
}
