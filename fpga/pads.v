// Pads of an ECP5 for simulation, as the design has them before Yosys puts TRELLIS_IO in their place.

module IB (input I, output O);
  assign O = I;
endmodule

module OBZ (input I, input T, output O);
  assign O = I;
endmodule
