"""Numbers as people read them."""


def three_digits(value: float) -> str:
    """A number with three significant digits: 0.95 as 0.950.

    A number below 1 that would round to 1 gets the digits that tell it from 1: 0.99998 stays.
    """
    texts = (f"{value:.{digits}f}" for digits in range(4, 9)) if 0.9995 <= value < 1 else ()
    text = next((text for text in texts if float(text) < 1), f"{value:#.3g}")
    return text.removesuffix(".")
