"""Models of SentencePiece, whose pieces the words of a dictionary may be."""

from typing import Any, Optional


def load_pieces(path: Optional[str]) -> Any:
    """The model in a file, a SentencePieceProcessor.

    Raises:
        ValueError: the file is not there or no such model, or SentencePiece is not installed.
    """
    if path is None:
        raise ValueError("there is no model of SentencePiece (sentencepiece.model)")
    try:
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=path)
    except ModuleNotFoundError as error:
        raise ValueError("sentencepiece is not installed: pip install sentencepiece") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is no model of SentencePiece: {' '.join(str(error).split())}") from error
