// The accelerator between a DRAM and a host in plain Verilog, for simulators that know X: it runs one program and writes
// what the DRAM holds afterwards.
//
// The registers' offsets are macros of their names. Arguments: +memory=FILE, +result=FILE (words in hexadecimal, from base on), +reset=CYCLES, +seed=NUMBER, +stall=0..255
// (of 256 cycles, in how many each channel pauses), +limit=CYCLES. It prints "done" at the interrupt of a program that
// has ended at its END, or a line that begins with FAIL. From the first rising edge in reset on, no control output may
// be X or Z; nothing offered may be, but for the bytes of a write that its strobes leave out.

`timescale 1ns / 1ps

module four_state;
  parameter ADDRESS_BITS = 32;
  parameter WORD_WIDTH = 64;
  parameter ID_BITS = 3;
  parameter WORDS = 1;
  parameter [63:0] BASE = 0;
  parameter [63:0] PROGRAM = 0;
  parameter [31:0] DESCRIPTORS = 1;
  localparam BYTES = WORD_WIDTH / 8;
  localparam QUEUE = 64;

  reg clk, rst;
  initial begin
    clk = 0;
    rst = 0;
  end
  always #1 clk = ~clk;

  wire [ADDRESS_BITS-1:0] araddr, awaddr;
  wire [7:0] arlen, awlen;
  wire [2:0] arsize, awsize, arprot, awprot;
  wire [1:0] arburst, awburst;
  wire [3:0] arcache, awcache;
  wire [ID_BITS-1:0] arid, awid;
  wire arvalid, awvalid, wvalid, wlast, rready, bready;
  wire [WORD_WIDTH-1:0] wdata;
  wire [BYTES-1:0] wstrb;
  reg arready, awready, wready, rvalid, rlast, bvalid;
  reg [WORD_WIDTH-1:0] rdata;
  reg [ID_BITS-1:0] rid, bid;
  reg [11:0] lite_address;
  reg [31:0] lite_wdata;
  reg lite_awvalid, lite_wvalid, lite_bready, lite_arvalid, lite_rready;
  wire lite_awready, lite_wready, lite_bvalid, lite_arready, lite_rvalid, interrupt;
  wire [1:0] lite_bresp, lite_rresp;
  wire [31:0] lite_rdata;

  accelerator dut (
      .clk(clk), .rst(rst), .o_interrupt(interrupt),
      .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arsize(arsize), .m_axi_arburst(arburst), .m_axi_arid(arid),
      .m_axi_arcache(arcache), .m_axi_arprot(arprot), .m_axi_arvalid(arvalid), .m_axi_arready(arready),
      .m_axi_rdata(rdata), .m_axi_rid(rid), .m_axi_rresp(2'd0), .m_axi_rlast(rlast), .m_axi_rvalid(rvalid),
      .m_axi_rready(rready),
      .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awsize(awsize), .m_axi_awburst(awburst), .m_axi_awid(awid),
      .m_axi_awcache(awcache), .m_axi_awprot(awprot), .m_axi_awvalid(awvalid), .m_axi_awready(awready),
      .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast), .m_axi_wvalid(wvalid), .m_axi_wready(wready),
      .m_axi_bid(bid), .m_axi_bresp(2'd0), .m_axi_bvalid(bvalid), .m_axi_bready(bready),
      .s_axil_awaddr(lite_address), .s_axil_awprot(3'd0), .s_axil_awvalid(lite_awvalid), .s_axil_awready(lite_awready),
      .s_axil_wdata(lite_wdata), .s_axil_wstrb(4'hF), .s_axil_wvalid(lite_wvalid), .s_axil_wready(lite_wready),
      .s_axil_bresp(lite_bresp), .s_axil_bvalid(lite_bvalid), .s_axil_bready(lite_bready),
      .s_axil_araddr(lite_address), .s_axil_arprot(3'd0), .s_axil_arvalid(lite_arvalid), .s_axil_arready(lite_arready),
      .s_axil_rdata(lite_rdata), .s_axil_rresp(lite_rresp), .s_axil_rvalid(lite_rvalid), .s_axil_rready(lite_rready)
  );

  // Arguments
  reg [8*1024-1:0] memory_path, result_path;
  integer reset_cycles, seed, stall, limit, cycle;
  initial begin
    reset_cycles = 5;
    seed = 1;
    stall = 64;
    limit = 1000000;
    if (!$value$plusargs("memory=%s", memory_path)) $display("FAIL +memory=FILE is needed");
    if (!$value$plusargs("result=%s", result_path)) $display("FAIL +result=FILE is needed");
    if ($value$plusargs("reset=%d", reset_cycles)) ;
    if ($value$plusargs("seed=%d", seed)) ;
    if ($value$plusargs("stall=%d", stall)) ;
    if ($value$plusargs("limit=%d", limit)) ;
    $readmemh(memory_path, memory);
  end

  task fail(input [8*40-1:0] what);
    begin
      $display("FAIL cycle %0d: %0s", cycle, what);
      $finish;
    end
  endtask

  // X and Z
  reg was_reset;
  wire [11:0] controls = {
      arvalid, awvalid, wvalid, rready, bready, interrupt,
      lite_awready, lite_wready, lite_bvalid, lite_arready, lite_rvalid, 1'b0};
  wire [9:0] valids = {arvalid, awvalid, wvalid, lite_bvalid, lite_rvalid, 5'd0};
  integer b;
  initial was_reset = 0;
  always @(posedge clk) begin
    if (rst) was_reset <= 1;
    if (was_reset) begin
      if (^controls === 1'bx) fail("X on a control output");
      if (rst & |valids) fail("an offer in reset");
      if (arvalid & (^{araddr, arlen, arsize, arburst, arid, arcache, arprot} === 1'bx)) fail("X in a read request");
      if (awvalid & (^{awaddr, awlen, awsize, awburst, awid, awcache, awprot} === 1'bx)) fail("X in a write request");
      if (wvalid & (^{wlast, wstrb} === 1'bx)) fail("X in the strobes of a write");
      if (wvalid) for (b = 0; b < BYTES; b = b + 1) if (wstrb[b] & (^wdata[8*b+:8] === 1'bx)) fail("X in a written byte");
      if (lite_bvalid & (^lite_bresp === 1'bx)) fail("X in the answer to a host's write");
      if (lite_rvalid & (^{lite_rresp, lite_rdata} === 1'bx)) fail("X in what the host reads");
    end
  end

  // DRAM: one read burst after the other, one write burst after the other
  reg [WORD_WIDTH-1:0] memory[0:WORDS-1];
  reg [ADDRESS_BITS+8+ID_BITS-1:0] reads[0:QUEUE-1], writes[0:QUEUE-1];
  reg [ID_BITS-1:0] answers[0:QUEUE-1];
  integer reads_in, reads_out, writes_in, writes_out, answers_in, answers_out, read_word, write_word, word;
  reg [ADDRESS_BITS-1:0] read_address, write_address;
  reg [7:0] read_length, write_length;
  reg [ID_BITS-1:0] read_id, write_id;

  function willing(input dummy);
    willing = ($random(seed) & 255) >= stall;
  endfunction

  initial begin
    {arready, awready, wready, rvalid, rlast, bvalid, rdata, rid, bid} = 0;
    {reads_in, reads_out, writes_in, writes_out, answers_in, answers_out, read_word, write_word} = 0;
  end
  always @(posedge clk) begin
    if (arvalid & arready) begin
      reads[reads_in%QUEUE] = {araddr, arlen, arid};
      reads_in = reads_in + 1;
    end
    if (awvalid & awready) begin
      writes[writes_in%QUEUE] = {awaddr, awlen, awid};
      writes_in = writes_in + 1;
    end
    if (wvalid & wready) begin
      {write_address, write_length, write_id} = writes[writes_out%QUEUE];
      word = (write_address - BASE) / BYTES + write_word;
      if (word < 0 || word >= WORDS) fail("a write outside the memory");
      for (b = 0; b < BYTES; b = b + 1) if (wstrb[b]) memory[word][8*b+:8] = wdata[8*b+:8];
      if (wlast !== (write_word == write_length)) fail("the last word of a write is not its last");
      write_word = write_word + 1;
      if (wlast) begin
        write_word = 0;
        writes_out = writes_out + 1;
        answers[answers_in%QUEUE] = write_id;
        answers_in = answers_in + 1;
      end
    end
    if (!rvalid | rready) begin
      if (rvalid & rlast) reads_out = reads_out + 1;
      if (rvalid) read_word = rlast ? 0 : read_word + 1;
      rvalid <= 0;
      if (reads_out != reads_in && willing(0)) begin
        {read_address, read_length, read_id} = reads[reads_out%QUEUE];
        word = (read_address - BASE) / BYTES + read_word;
        if (word < 0 || word >= WORDS) fail("a read outside the memory");
        rvalid <= 1;
        rdata <= memory[word];
        rid <= read_id;
        rlast <= read_word == read_length;
      end
    end
    if (!bvalid | bready) begin
      if (bvalid) answers_out = answers_out + 1;
      bvalid <= 0;
      if (answers_out != answers_in && willing(0)) begin
        bvalid <= 1;
        bid <= answers[answers_out%QUEUE];
      end
    end
    arready <= reads_in - reads_out < QUEUE - 2 && willing(0);
    awready <= writes_in - writes_out < QUEUE - 2 && willing(0);
    // A word is only taken after its address.
    wready <= writes_in != writes_out && willing(0);
    if (rst) {arready, awready, wready, rvalid, bvalid} <= 0;
  end

  // Host
  task write(input [11:0] address, input [31:0] data);
    begin
      lite_address = address;
      lite_wdata = data;
      {lite_awvalid, lite_wvalid, lite_bready} = 3'b111;
      while (lite_bready) begin
        @(posedge clk);
        // What was taken at this edge goes away at the falling one.
        {taken_aw, taken_w, taken_b} = {lite_awvalid & lite_awready, lite_wvalid & lite_wready, lite_bvalid};
        @(negedge clk);
        if (taken_aw) lite_awvalid = 0;
        if (taken_w) lite_wvalid = 0;
        if (taken_b) lite_bready = 0;
      end
      if (lite_bresp !== 0) fail("a host's write was refused");
    end
  endtask

  task read(input [11:0] address);
    begin
      lite_address = address;
      {lite_arvalid, lite_rready} = 2'b11;
      while (lite_rready) begin
        @(posedge clk);
        {taken_ar, taken_r} = {lite_arvalid & lite_arready, lite_rvalid};
        if (lite_rvalid) value = lite_rdata;
        @(negedge clk);
        if (taken_ar) lite_arvalid = 0;
        if (taken_r) lite_rready = 0;
      end
    end
  endtask

  reg taken_aw, taken_w, taken_b, taken_ar, taken_r;
  reg [31:0] value;
  reg [11:0] register;
  initial begin
    {lite_awvalid, lite_wvalid, lite_bready, lite_arvalid, lite_rready, lite_address, lite_wdata} = 0;
    @(negedge clk);
    rst = 1;
    repeat (reset_cycles) @(negedge clk);
    rst = 0;
    @(negedge clk);
    for (register = 0; register < 12'h080; register = register + 4) read(register);
    write(`INTERRUPT_ENABLE, 3);
    write(`PROGRAM_LOW, PROGRAM[31:0]);
    write(`PROGRAM_HIGH, PROGRAM[63:32]);
    write(`PROGRAM_DESCRIPTORS, DESCRIPTORS);
    write(`CONTROL, 1);
    for (cycle = 0; cycle < limit && interrupt !== 1; cycle = cycle + 1) @(negedge clk);
    if (interrupt !== 1) fail("no interrupt");
    read(`STATUS);
    if (value !== 2) fail("the program has not ended at its END");
    $writememh(result_path, memory);
    $display("done after %0d cycles", cycle);
    $finish;
  end
  initial cycle = 0;
endmodule
