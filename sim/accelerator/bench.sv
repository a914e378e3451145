// The accelerator between a DRAM and a host. Python sets the DRAM up, then only asks for accesses to registers and waits
// for the interrupt.
//
// The settings of the DRAM are taken at each rising edge at which `configure` is high. Python acts at falling edges: `irq`
// and `host_done` change there. With `alone`, `rst` resets the accelerator while the DRAM goes on.
//
// An access: set host_write, host_address and host_data, then toggle host_request; when host_done toggles, host_result
// and host_response hold the answer. `edges` counts clock cycles; `irq_edge` is its value when the interrupt rose,
// `start_edge` when a write to a register was last taken. With `stall` the host pauses, too: AW and W come apart, and B
// and R wait. What the accelerator offers must hold meanwhile, and from the first edge in reset on it must offer nothing.

module bench #(
    parameter ADDRESS_BITS = 32,
    parameter WORD_WIDTH = 64,
    parameter ID_BITS = 3
) (
    input clk,
    input rst,
    input configure,
    input alone,
    input reorder,
    input [63:0] base,
    input [63:0] seed,
    input [31:0] latency,
    input [7:0] stall,
    input [1:0] fault,
    input [63:0] fault_address,
    input host_request,
    input host_write,
    input [11:0] host_address,
    input [31:0] host_data,
    output reg host_done,
    output reg [31:0] host_result,
    output reg [1:0] host_response,
    output reg irq,
    output violation,
    output reg [63:0] edges,
    output reg [63:0] start_edge,
    output reg [63:0] irq_edge
);
  import "DPI-C" function void dram_reset();
  import "DPI-C" function void dram_configure(
      input bit reorder, input longint unsigned base, input longint unsigned seed, input int unsigned latency,
      input int unsigned stall, input int unsigned fault, input longint unsigned fault_address);
  import "DPI-C" function void dram_cycle(
      input int unsigned width,
      input bit arvalid, input longint unsigned araddr, input int unsigned arlen, input int unsigned arsize,
      input int unsigned arburst, input int unsigned arid,
      input bit awvalid, input longint unsigned awaddr, input int unsigned awlen, input int unsigned awsize,
      input int unsigned awburst, input int unsigned awid,
      input bit wvalid, input bit [511:0] wdata, input longint unsigned wstrb, input bit wlast,
      input bit rready, input bit bready,
      output bit arready, output bit awready, output bit wready,
      output bit rvalid, output bit [511:0] rdata, output int unsigned rid, output int unsigned rresp,
      output bit rlast,
      output bit bvalid, output int unsigned bid, output int unsigned bresp, output bit violation);

  wire [ADDRESS_BITS-1:0] araddr, awaddr;
  wire [7:0] arlen, awlen;
  wire [2:0] arsize, awsize;
  wire [1:0] arburst, awburst;
  wire [ID_BITS-1:0] arid, awid;
  wire arvalid, awvalid, wvalid, wlast, rready, bready;
  wire [WORD_WIDTH-1:0] wdata;
  wire [WORD_WIDTH/8-1:0] wstrb;
  reg arready, awready, wready, rvalid, rlast, bvalid;
  reg [WORD_WIDTH-1:0] rdata;
  reg [ID_BITS-1:0] rid, bid;
  reg [1:0] rresp, bresp;

  wire interrupt;
  reg lite_awvalid, lite_wvalid, lite_arvalid, expect_b, expect_r, pause;
  wire lite_bready = expect_b & ~pause, lite_rready = expect_r & ~pause;
  wire lite_awready, lite_wready, lite_bvalid, lite_arready, lite_rvalid;
  wire [1:0] lite_bresp, lite_rresp;
  wire [31:0] lite_rdata;

  accelerator dut (
      .clk(clk), .rst(rst), .o_interrupt(interrupt),
      .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arsize(arsize), .m_axi_arburst(arburst),
      .m_axi_arid(arid), .m_axi_arvalid(arvalid), .m_axi_arready(arready),
      .m_axi_arcache(), .m_axi_arprot(),
      .m_axi_rdata(rdata), .m_axi_rid(rid), .m_axi_rresp(rresp), .m_axi_rlast(rlast),
      .m_axi_rvalid(rvalid), .m_axi_rready(rready),
      .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awsize(awsize), .m_axi_awburst(awburst),
      .m_axi_awid(awid), .m_axi_awvalid(awvalid), .m_axi_awready(awready),
      .m_axi_awcache(), .m_axi_awprot(),
      .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast), .m_axi_wvalid(wvalid),
      .m_axi_wready(wready),
      .m_axi_bid(bid), .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(bready),
      .s_axil_awaddr(host_address), .s_axil_awprot(3'd0), .s_axil_awvalid(lite_awvalid),
      .s_axil_awready(lite_awready),
      .s_axil_wdata(host_data), .s_axil_wstrb(4'hF), .s_axil_wvalid(lite_wvalid), .s_axil_wready(lite_wready),
      .s_axil_bresp(lite_bresp), .s_axil_bvalid(lite_bvalid), .s_axil_bready(lite_bready),
      .s_axil_araddr(host_address), .s_axil_arprot(3'd0), .s_axil_arvalid(lite_arvalid),
      .s_axil_arready(lite_arready),
      .s_axil_rdata(lite_rdata), .s_axil_rresp(lite_rresp), .s_axil_rvalid(lite_rvalid),
      .s_axil_rready(lite_rready)
  );

  bit new_arready, new_awready, new_wready, new_rvalid, new_rlast, new_bvalid, new_violation;
  bit [511:0] new_rdata;
  int unsigned new_rid, new_rresp, new_bid, new_bresp;

  reg dram_violation, lite_violation;
  assign violation = dram_violation | lite_violation;

  always @(posedge clk) begin
    if (configure) dram_configure(reorder, base, seed, latency, 32'(stall), 32'(fault), fault_address);
    if (rst & ~alone) begin
      dram_reset();
      {arready, awready, wready, rvalid, bvalid, dram_violation} <= 0;
    end else begin
      dram_cycle(WORD_WIDTH / 8,
                 arvalid, 64'(araddr), 32'(arlen), 32'(arsize), 32'(arburst), 32'(arid),
                 awvalid, 64'(awaddr), 32'(awlen), 32'(awsize), 32'(awburst), 32'(awid),
                 wvalid, 512'(wdata), 64'(wstrb), wlast, rready, bready,
                 new_arready, new_awready, new_wready,
                 new_rvalid, new_rdata, new_rid, new_rresp, new_rlast,
                 new_bvalid, new_bid, new_bresp, new_violation);
      arready <= new_arready;
      awready <= new_awready;
      wready <= new_wready;
      rvalid <= new_rvalid;
      rdata <= new_rdata[WORD_WIDTH-1:0];
      rid <= new_rid[ID_BITS-1:0];
      rresp <= new_rresp[1:0];
      rlast <= new_rlast;
      bvalid <= new_bvalid;
      bid <= new_bid[ID_BITS-1:0];
      bresp <= new_bresp[1:0];
      dram_violation <= new_violation;
    end
  end

  // Host
  reg seen_request, busy, was_interrupt, done, late_aw, late_w;
  reg [31:0] noise;
  initial {done, host_done, irq, edges, start_edge, irq_edge, late_aw, late_w, pause} = 0;
  initial noise = 1;
  always @(negedge clk) begin
    host_done <= done;
    irq <= interrupt;
  end
  always @(posedge clk) begin
    edges <= edges + 1;
    was_interrupt <= interrupt;
    if (interrupt & ~was_interrupt) irq_edge <= edges;
    // A maximal sequence (x^32 + x^22 + x^2 + x + 1); the settings say where it begins.
    noise <= configure ? seed[31:0] | 1 : {noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]};
    pause <= noise[7:0] < stall;
    if (lite_awvalid & lite_awready) lite_awvalid <= 0;
    if (lite_wvalid & lite_wready) begin
      lite_wvalid <= 0;
      start_edge <= edges;
    end
    if (lite_arvalid & lite_arready) lite_arvalid <= 0;
    if (lite_bready & lite_bvalid) begin
      expect_b <= 0;
      host_response <= lite_bresp;
    end
    if (lite_rready & lite_rvalid) begin
      expect_r <= 0;
      host_response <= lite_rresp;
      host_result <= lite_rdata;
    end
    if (busy & ((lite_bready & lite_bvalid) | (lite_rready & lite_rvalid))) begin
      busy <= 0;
      done <= ~done;
    end
    if (late_aw & ~noise[8]) {late_aw, lite_awvalid} <= 2'b01;
    if (late_w & ~noise[11]) {late_w, lite_wvalid} <= 2'b01;
    seen_request <= host_request;
    if (host_request != seen_request) begin
      busy <= 1;
      expect_b <= host_write;
      expect_r <= ~host_write;
      lite_arvalid <= ~host_write;
      late_aw <= host_write & |stall & noise[9];
      late_w <= host_write & |stall & noise[10];
      lite_awvalid <= host_write & ~(|stall & noise[9]);
      lite_wvalid <= host_write & ~(|stall & noise[10]);
    end
    if (rst) begin
      {lite_awvalid, lite_wvalid, expect_b, lite_arvalid, expect_r, busy, was_interrupt, late_aw, late_w} <= 0;
      seen_request <= host_request;
    end
  end

  // Rules of AXI4-Lite, and of the reset
  reg was_reset, waiting_b, waiting_r;
  reg [1:0] held_b;
  reg [33:0] held_r;
  initial {was_reset, waiting_b, waiting_r, lite_violation} = 0;
  task complain(input [8*48-1:0] what);
    if (!lite_violation) $display("AXI: edge %0d: %0s", edges, what);
    lite_violation <= 1;
  endtask
  always @(posedge clk) begin
    if (configure) lite_violation <= 0;
    was_reset <= rst;
    waiting_b <= ~rst & lite_bvalid & ~lite_bready;
    held_b <= lite_bresp;
    if (waiting_b & ({lite_bvalid, lite_bresp} != {1'b1, held_b})) complain("B changed before it was taken");
    waiting_r <= ~rst & lite_rvalid & ~lite_rready;
    held_r <= {lite_rresp, lite_rdata};
    if (waiting_r & ({lite_rvalid, lite_rresp, lite_rdata} != {1'b1, held_r}))
      complain("R changed before it was taken");
    if (~rst & (lite_bvalid & ~expect_b | lite_rvalid & ~expect_r)) complain("an answer to no request");
    if (was_reset & (arvalid | awvalid | wvalid | lite_bvalid | lite_rvalid | interrupt))
      complain("a valid or the interrupt in reset");
  end
endmodule
