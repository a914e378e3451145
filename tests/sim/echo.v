// A register between two streams. Modes: 0 works, 1 changes the payload while it waits, 2 takes valid back, 3 takes nothing.
module echo(clk, rst, mode, i_a__payload, i_a__valid, i_a__ready, o_b__payload, o_b__valid, o_b__ready, o_full);
  input clk, rst;
  input [1:0] mode;
  input [39:0] i_a__payload;
  input i_a__valid, o_b__ready;
  output i_a__ready, o_b__valid, o_full;
  output [39:0] o_b__payload;
  reg full, flip;
  reg [39:0] held;
  assign o_full = full;
  assign o_b__valid = full & (mode != 2 | flip);
  assign o_b__payload = mode == 1 & flip ? ~held : held;
  assign i_a__ready = mode != 3 & (~full | (o_b__valid & o_b__ready));
  always @(posedge clk) begin
    flip <= ~flip;
    if (i_a__valid & i_a__ready) held <= i_a__payload;
    full <= ~rst & ((i_a__valid & i_a__ready) | (full & ~(o_b__valid & o_b__ready)));
  end
endmodule
