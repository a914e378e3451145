// Register files. A memory with one write port and combinational read ports becomes words that share a write enable, and one
// column for every bit, a module of its own: equal columns are synthesised once. Each read port selects by one-hot lines.
// GATED: the word's enable stops its clock. LATCH: words are latches, open while the gated
// clock is high; the word that is written is held in flip-flops, so that it is stable meanwhile.
(* techmap_celltype = "$mem_v2" *)
module _register_file (RD_CLK, RD_EN, RD_ARST, RD_SRST, RD_ADDR, RD_DATA, WR_CLK, WR_EN, WR_ADDR, WR_DATA);
    parameter MEMID = "";
    parameter signed SIZE = 4;
    parameter signed OFFSET = 0;
    parameter signed ABITS = 2;
    parameter signed WIDTH = 8;
    parameter signed INIT = 1'bx;
    parameter signed RD_PORTS = 1;
    parameter RD_CLK_ENABLE = 1'b1;
    parameter RD_CLK_POLARITY = 1'b1;
    parameter RD_TRANSPARENCY_MASK = 1'b0;
    parameter RD_COLLISION_X_MASK = 1'b0;
    parameter RD_WIDE_CONTINUATION = 1'b0;
    parameter RD_CE_OVER_SRST = 1'b0;
    parameter RD_ARST_VALUE = 1'b0;
    parameter RD_SRST_VALUE = 1'b0;
    parameter RD_INIT_VALUE = 1'b0;
    parameter signed WR_PORTS = 1;
    parameter WR_CLK_ENABLE = 1'b1;
    parameter WR_CLK_POLARITY = 1'b1;
    parameter WR_PRIORITY_MASK = 1'b0;
    parameter WR_WIDE_CONTINUATION = 1'b0;
    input [RD_PORTS-1:0] RD_CLK, RD_EN, RD_ARST, RD_SRST;
    input [RD_PORTS*ABITS-1:0] RD_ADDR;
    output [RD_PORTS*WIDTH-1:0] RD_DATA;
    input [WR_PORTS-1:0] WR_CLK;
    input [WR_PORTS*WIDTH-1:0] WR_EN, WR_DATA;
    input [WR_PORTS*ABITS-1:0] WR_ADDR;
    // Bits of equal numbers are on one net: a word must have one enable.
    parameter [WR_PORTS*WIDTH*8-1:0] _TECHMAP_CONNMAP_WR_EN_ = 0;
    parameter _TECHMAP_BITS_CONNMAP_ = 0;
    function one_enable;
        input dummy;
        integer i;
        begin
            one_enable = 1;
            for (i = 1; i < WIDTH; i = i + 1)
                if (_TECHMAP_CONNMAP_WR_EN_[i*_TECHMAP_BITS_CONNMAP_ +: _TECHMAP_BITS_CONNMAP_]
                        != _TECHMAP_CONNMAP_WR_EN_[0 +: _TECHMAP_BITS_CONNMAP_])
                    one_enable = 0;
        end
    endfunction
    wire _TECHMAP_FAIL_ = WR_PORTS != 1 || |RD_CLK_ENABLE || !WR_CLK_ENABLE || !WR_CLK_POLARITY || OFFSET != 0 || !one_enable(0);

    wire [SIZE-1:0] write, clock, enable;
    wire [RD_PORTS*SIZE-1:0] select;
    wire [WIDTH-1:0] data;
`ifdef LATCH
    \$dff #(.WIDTH(WIDTH), .CLK_POLARITY(1'b1)) word (.CLK(WR_CLK[0]), .D(WR_DATA), .Q(data));
`else
    assign data = WR_DATA;
`endif
    genvar i, p;
    generate
        for (i = 0; i < SIZE; i = i + 1) begin : word_
            assign write[i] = WR_EN[0] && WR_ADDR == i;
            for (p = 0; p < RD_PORTS; p = p + 1) begin : port_
                assign select[p*SIZE + i] = RD_ADDR[p*ABITS +: ABITS] == i;
            end
`ifdef GATED
            clock_gate gate (.clock(WR_CLK[0]), .enable(write[i]), .out(clock[i]));
`endif
        end
`ifdef GATED
        assign enable = {SIZE{1'b1}};
`else
        assign clock = {SIZE{WR_CLK[0]}};
        assign enable = write;
`endif
        for (i = 0; i < WIDTH; i = i + 1) begin : column_
            wire [RD_PORTS-1:0] q;
            register_file_column #(.SIZE(SIZE), .PORTS(RD_PORTS))
                column (.clock(clock), .enable(enable), .data(data[i]), .select(select), .q(q));
            for (p = 0; p < RD_PORTS; p = p + 1) begin : port_
                assign RD_DATA[p*WIDTH + i] = q[p];
            end
        end
    endgenerate
endmodule
