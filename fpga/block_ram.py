"""A model of the ECP5's block RAM (DP16KD) in Verilog, for netlists: Yosys' own does not keep initial contents."""

from __future__ import annotations

__all__ = ["block_ram_verilog"]


def block_ram_verilog() -> str:
    """1024 words of 18 bits behind two ports of 1, 2, 4, 9, 18 or 36 bits (Lattice FPGA-TN-02204).

    A port of 36 bits takes the data of both ports, the lower half on port A. Bits of an address below the width are
    enables of bytes of 9 bits. Ports of 1, 2 and 4 bits have no use for the ninth bit of a byte.
    """
    numbers = [f"{number:02X}" for number in range(64)]

    def pins(name: str, count: int) -> str:
        return ", ".join(f"{name}{bit}" for bit in reversed(range(count)))

    ports = []
    for port in "AB":
        ports += [f"input {pins(f'AD{port}', 14)}", f"input {pins(f'DI{port}', 18)}", f"output {pins(f'DO{port}', 18)}"]
        ports += [f"input CLK{port}, WE{port}, CE{port}, OCE{port}, RST{port}, CS{port}0, CS{port}1, CS{port}2"]
    lines = [f"module DP16KD (\n    {', '.join(ports)}\n);"]
    lines += [f"  parameter [319:0] INITVAL_{number} = 320'b0;" for number in numbers]
    lines += ['  parameter INIT_DATA = "STATIC", GSR = "AUTO", RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC";']
    for port in "AB":
        lines += [
            f"  parameter DATA_WIDTH_{port} = 18;",
            f'  parameter REGMODE_{port} = "NOREG", CSDECODE_{port} = "0b000", WRITEMODE_{port} = "NORMAL";',
            f'  parameter CLK{port}MUX = "CLK{port}";',
            f"  wire [13:0] ad_{port} = {{{pins(f'AD{port}', 14)}}};",
            f"  wire [17:0] di_{port} = {{{pins(f'DI{port}', 18)}}};",
            f"  reg [17:0] do_{port} = 0;",
            f"  assign {{{pins(f'DO{port}', 18)}}} = do_{port};",
        ]
    lines += [
        "  reg [17:0] memory [0:1023];",
        "  integer i;",
        "  initial begin",
        *(
            f"    for (i = 0; i < 16; i = i + 1) memory[{16 * at} + i] = INITVAL_{number}[20 * i +: 18];"
            for at, number in enumerate(numbers)
        ),
        "  end",
        # What a word of 18 bits becomes by a write, and what of it a port reads.
        "  function [17:0] written(input integer width, input [17:0] old, input [17:0] data, input [13:0] ad);",
        "    begin",
        "      written = old;",
        "      case (width)",
        "        18: begin",
        "          if (ad[0]) written[8:0] = data[8:0];",
        "          if (ad[1]) written[17:9] = data[17:9];",
        "        end",
        "        9: written[9 * ad[3] +: 9] = data[8:0];",
        "        4: written[9 * ad[3] + 4 * ad[2] +: 4] = data[3:0];",
        "        2: written[9 * ad[3] + 2 * ad[2:1] +: 2] = data[1:0];",
        "        default: written[9 * ad[3] + ad[2:0] +: 1] = data[0];",
        "      endcase",
        "    end",
        "  endfunction",
        "  function [17:0] seen(input integer width, input [17:0] word, input [13:0] ad);",
        "    case (width)",
        "      18: seen = word;",
        "      9: seen = {9'b0, word[9 * ad[3] +: 9]};",
        "      4: seen = {14'b0, word[9 * ad[3] + 4 * ad[2] +: 4]};",
        "      2: seen = {16'b0, word[9 * ad[3] + 2 * ad[2:1] +: 2]};",
        "      default: seen = {17'b0, word[9 * ad[3] + ad[2:0] +: 1]};",
        "    endcase",
        "  endfunction",
    ]
    for port in "AB":
        word = f"ad_{port}[13:4]"
        lines += [
            "  generate",
            f"    if (DATA_WIDTH_{port} == 36) begin : wide_{port}",
            f"      always @(posedge CLK{port}) if (CE{port}) begin",
            *(
                [
                    "        if (WEA) begin",
                    "          if (ad_A[0]) memory[{ad_A[13:5], 1'b0}][8:0] <= di_A[8:0];",
                    "          if (ad_A[1]) memory[{ad_A[13:5], 1'b0}][17:9] <= di_A[17:9];",
                    "          if (ad_A[2]) memory[{ad_A[13:5], 1'b1}][8:0] <= di_B[8:0];",
                    "          if (ad_A[3]) memory[{ad_A[13:5], 1'b1}][17:9] <= di_B[17:9];",
                    "        end",
                ]
                if port == "A"
                else [
                    "        do_A <= RSTB ? 18'b0 : memory[{ad_B[13:5], 1'b0}];",
                    "        do_B <= RSTB ? 18'b0 : memory[{ad_B[13:5], 1'b1}];",
                ]
            ),
            "      end",
            f"    end else begin : narrow_{port}",
            f"      always @(posedge CLK{port}) if (CE{port}) begin",
            f"        if (WE{port})",
            f"          memory[{word}] <= written(DATA_WIDTH_{port}, memory[{word}], di_{port}, ad_{port});",
            # A read of 36 bits has the outputs of both ports.
            *(["        if (DATA_WIDTH_B != 36) begin"] if port == "A" else ["        begin"]),
            f"        if (RST{port}) do_{port} <= 0;",
            f'        else if (!WE{port} || WRITEMODE_{port} == "READBEFOREWRITE")',
            f"          do_{port} <= seen(DATA_WIDTH_{port}, memory[{word}], ad_{port});",
            f'        else if (WRITEMODE_{port} == "WRITETHROUGH")',
            f"          do_{port} <= seen(DATA_WIDTH_{port}, written(DATA_WIDTH_{port}, memory[{word}], di_{port}, "
            f"ad_{port}), ad_{port});",
            "        end",
            "      end",
            "    end",
            "  endgenerate",
        ]
    lines += ["endmodule", ""]
    return "\n".join(lines)
