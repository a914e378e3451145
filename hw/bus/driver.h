/* Driver of the accelerator for bare metal: C99, no library, no state of its own.
 *
 * A device is the address of its registers. One caller at a time; msvq_interrupt may be called from a handler. */
#ifndef MSVQ_DRIVER_H
#define MSVQ_DRIVER_H

#include <stdint.h>

#include "@NAME@.h"

/* How a register is reached. Define both before this header where a plain access is not enough. */
#ifndef MSVQ_READ32
#define MSVQ_READ32(device, offset) (*(const volatile uint32_t *)((device) + (offset)))
#define MSVQ_WRITE32(device, offset, value) (*(volatile uint32_t *)((device) + (offset)) = (value))
#endif

/* What puts program and input into the DRAM that the accelerator reads, before the doorbell, and what makes its results
 * visible after the end: fences, and on a system without coherent caches a flush and an invalidation. */
#ifndef MSVQ_BEFORE_START
#define MSVQ_BEFORE_START() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif
#ifndef MSVQ_AFTER_END
#define MSVQ_AFTER_END() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

typedef uintptr_t msvq_device;

typedef enum {
  MSVQ_IDLE = 0,    /* no program since the reset */
  MSVQ_RUNNING = 1, /* one is running */
  MSVQ_DONE = 2,    /* the last one has ended at its END: its results are in DRAM */
  MSVQ_FAILED = 3   /* the last one has ended early: see msvq_cause */
} msvq_state;

typedef enum {
  MSVQ_OK = 0,
  MSVQ_NO_DEVICE = -1,   /* ID is not that of the accelerator */
  MSVQ_OTHER_VERSION = -2, /* registers or descriptors of another version than this driver's */
  MSVQ_BUSY = -3,        /* a program is running */
  MSVQ_BAD_PROGRAM = -4, /* no descriptors, no multiple of 64, or beyond the addresses that the instance has */
  MSVQ_TIMEOUT = -5      /* still running after that many looks */
} msvq_result;

/* Whether there is an accelerator at this address that this driver knows: MSVQ_OK, MSVQ_NO_DEVICE, MSVQ_OTHER_VERSION. */
static inline msvq_result msvq_check(msvq_device device) {
  if (MSVQ_READ32(device, MSVQ_ID) != MSVQ_ID_VALUE) return MSVQ_NO_DEVICE;
  return MSVQ_READ32(device, MSVQ_VERSION) >> 16 == MSVQ_VERSION_VALUE >> 16 ? MSVQ_OK : MSVQ_OTHER_VERSION;
}

/* What the accelerator does, or did last. */
static inline msvq_state msvq_status(msvq_device device) {
  uint32_t status = MSVQ_READ32(device, MSVQ_STATUS);
  if (status & MSVQ_STATUS_BUSY) return MSVQ_RUNNING;
  if (status & MSVQ_STATUS_FAILED) return MSVQ_FAILED;
  return status & MSVQ_STATUS_DONE ? MSVQ_DONE : MSVQ_IDLE;
}

/* Start a program: the DRAM address of its first descriptor, and their number, as the program's header has them.
 * `interrupts` are MSVQ_INTERRUPT_ENABLE_DONE, _FAILED, _REFUSED, or 0 to look with msvq_wait. */
static inline msvq_result msvq_start(msvq_device device, uint64_t address, uint32_t descriptors, uint32_t interrupts) {
  if (descriptors == 0 || address % 64 != 0) return MSVQ_BAD_PROGRAM;
  if (msvq_status(device) == MSVQ_RUNNING) return MSVQ_BUSY;
  MSVQ_WRITE32(device, MSVQ_PROGRAM_LOW, (uint32_t)address);
  MSVQ_WRITE32(device, MSVQ_PROGRAM_HIGH, (uint32_t)(address >> 32));
  MSVQ_WRITE32(device, MSVQ_PROGRAM_DESCRIPTORS, descriptors);
  if (MSVQ_READ32(device, MSVQ_PROGRAM_LOW) != (uint32_t)address ||
      MSVQ_READ32(device, MSVQ_PROGRAM_HIGH) != (uint32_t)(address >> 32) ||
      MSVQ_READ32(device, MSVQ_PROGRAM_DESCRIPTORS) != descriptors)
    return MSVQ_BAD_PROGRAM;
  MSVQ_WRITE32(device, MSVQ_INTERRUPT, MSVQ_READ32(device, MSVQ_INTERRUPT));
  MSVQ_WRITE32(device, MSVQ_INTERRUPT_ENABLE, interrupts);
  MSVQ_BEFORE_START();
  MSVQ_WRITE32(device, MSVQ_CONTROL, MSVQ_CONTROL_START);
  return MSVQ_OK;
}

/* Look at most `looks` times until nothing is running; 0: for ever. MSVQ_OK says that it has ended, not how. */
static inline msvq_result msvq_wait(msvq_device device, uint64_t looks) {
  for (uint64_t look = 0; look < looks || looks == 0; look++)
    if (msvq_status(device) != MSVQ_RUNNING) {
      MSVQ_AFTER_END();
      return MSVQ_OK;
    }
  return MSVQ_TIMEOUT;
}

/* The body of an interrupt handler: what has happened, MSVQ_INTERRUPT_DONE, _FAILED, _REFUSED; clears just that. */
static inline uint32_t msvq_interrupt(msvq_device device) {
  uint32_t happened = MSVQ_READ32(device, MSVQ_INTERRUPT);
  MSVQ_WRITE32(device, MSVQ_INTERRUPT, happened);
  MSVQ_AFTER_END();
  return happened;
}

/* End the running program; it fails with MSVQ_CAUSE_ABORTED. Accesses under way on the bus still end: wait for that. */
static inline void msvq_abort(msvq_device device) { MSVQ_WRITE32(device, MSVQ_CONTROL, MSVQ_CONTROL_ABORT); }

/* Why the last program failed: one of MSVQ_CAUSE_*. */
static inline uint32_t msvq_cause(msvq_device device) {
  return MSVQ_READ32(device, MSVQ_ERROR) & MSVQ_ERROR_CAUSE;
}

/* At which of its descriptors, from 0 on. */
static inline uint32_t msvq_failed_descriptor(msvq_device device) {
  return MSVQ_READ32(device, MSVQ_ERROR_DESCRIPTOR);
}

/* A cause in words. */
static inline const char *msvq_cause_text(uint32_t cause) {
  switch (cause) {
@CAUSES@
    default: return "a cause that this driver does not know";
  }
}

#endif
