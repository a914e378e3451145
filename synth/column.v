// One bit of every word of a register file.
module register_file_column (clock, enable, data, select, q);
    parameter SIZE = 4;
    parameter PORTS = 1;
    input [SIZE-1:0] clock, enable;
    input data;
    input [PORTS*SIZE-1:0] select;
    output [PORTS-1:0] q;
    wire [SIZE-1:0] held;
    genvar i, p;
    generate
        for (i = 0; i < SIZE; i = i + 1) begin : word_
`ifdef LATCH
            \$dlatch #(.WIDTH(1), .EN_POLARITY(1'b1)) bit_ (.EN(clock[i]), .D(data), .Q(held[i]));
`else
`ifdef GATED
            \$dff #(.WIDTH(1), .CLK_POLARITY(1'b1)) bit_ (.CLK(clock[i]), .D(data), .Q(held[i]));
`else
            \$dffe #(.WIDTH(1), .CLK_POLARITY(1'b1), .EN_POLARITY(1'b1))
                bit_ (.CLK(clock[i]), .EN(enable[i]), .D(data), .Q(held[i]));
`endif
`endif
        end
        for (p = 0; p < PORTS; p = p + 1) begin : port_
            assign q[p] = |(held & select[p*SIZE +: SIZE]);
        end
    endgenerate
endmodule
