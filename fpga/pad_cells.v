// For Yosys' techmap: pads of a netlist as plain wires, so that a simulator takes a port that is an input as one.

module TRELLIS_IO (inout B, input I, input T, output O);
  parameter DIR = "INPUT";
  generate
    if (DIR == "INPUT") assign O = B;
    else assign B = I;
  endgenerate
endmodule
