module counter(clk, rst, enable, count);
  input clk;
  wire clk;
  input rst;
  wire rst;
  input enable;
  wire enable;
  output [15:0] count;
  wire [15:0] count;
  reg [15:0] hidden;
  assign count = hidden;
  always @(posedge clk)
    if (rst) hidden <= 16'd0;
    else if (enable) hidden <= hidden + 16'd1;
endmodule
