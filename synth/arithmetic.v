// Adders and subtractors as chains of full adders: smaller than Yosys' default prefix adders, and fast enough at the paper's
// 0.3 GHz. Adders stay apart: merged into compressor trees, as alumacc and maccmap would, adder trees are larger.
(* techmap_celltype = "$add $sub" *)
module _add_sub (A, B, Y);
    parameter A_SIGNED = 0;
    parameter B_SIGNED = 0;
    parameter A_WIDTH = 1;
    parameter B_WIDTH = 1;
    parameter Y_WIDTH = 1;
    parameter _TECHMAP_CELLTYPE_ = "";
    localparam SUBTRACT = _TECHMAP_CELLTYPE_ == "$sub";
    (* force_downto *) input [A_WIDTH-1:0] A;
    (* force_downto *) input [B_WIDTH-1:0] B;
    (* force_downto *) output [Y_WIDTH-1:0] Y;
    wire [Y_WIDTH-1:0] X, CO;
    \$alu #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(A_WIDTH), .B_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH))
        alu (.A(A), .B(B), .CI(SUBTRACT), .BI(SUBTRACT), .X(X), .Y(Y), .CO(CO));
endmodule

(* techmap_celltype = "$alu" *)
module _ripple_alu (A, B, CI, BI, X, Y, CO);
    parameter A_SIGNED = 0;
    parameter B_SIGNED = 0;
    parameter A_WIDTH = 1;
    parameter B_WIDTH = 1;
    parameter Y_WIDTH = 1;
    (* force_downto *) input [A_WIDTH-1:0] A;
    (* force_downto *) input [B_WIDTH-1:0] B;
    input CI, BI;
    (* force_downto *) output [Y_WIDTH-1:0] X, Y, CO;
    (* force_downto *) wire [Y_WIDTH-1:0] AA, B_extended, BB;
    \$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_a (.A(A), .Y(AA));
    \$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_b (.A(B), .Y(B_extended));
    assign BB = BI ? ~B_extended : B_extended;
    wire [Y_WIDTH:0] C;
    assign C[0] = CI;
    assign CO = C[Y_WIDTH:1];
    assign X = AA ^ BB;
    genvar i;
    generate
        for (i = 0; i < Y_WIDTH; i = i + 1) begin : bit_
            \$fa #(.WIDTH(1)) adder (.A(AA[i]), .B(BB[i]), .C(C[i]), .X(C[i+1]), .Y(Y[i]));
        end
    endgenerate
endmodule
