//! `boardfile BOARD.toml PROGRAM FILE`: writes a program as the file by which the board is flashed: UF2 for a
//! board that takes that, else the program as it is.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [board, program, file] = arguments.as_slice() else {
        return Err("usage: boardfile BOARD.toml PROGRAM FILE".into());
    };
    let program = std::fs::read(program).map_err(|error| format!("{program}: {error}"))?;
    let family = boardfile::uf2_family(&std::fs::read_to_string(board).map_err(|error| format!("{board}: {error}"))?)?;
    let image = match family {
        Some(family) => boardfile::uf2(&program, family)?,
        None => program,
    };
    Ok(std::fs::write(file, image).map_err(|error| format!("{file}: {error}"))?)
}
