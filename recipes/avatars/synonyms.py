"""Other words for what captions say: which trained words may lend their meaning, and a list to test it with."""

from __future__ import annotations

LENDERS = {
    "a": """
    asleep sleepy drowsy awake merry joyful cheerful glad overjoyed delighted happy sad unhappy grumpy angry depressed
    displeased disappointed surprised shocked speechless smug bald curly bearded unshaven wrinkled old elderly blond
    checkered
    """,
    "v": "sleeping laughing smiling grinning winking frowning smirking",
    "n": """
    glasses spectacles eyeglasses sunglasses smile grin frown smirk lipstick beanie cap hat headgear headband fringe curls
    afro pigtails mohawk sideburns haircut beard goatee mustache stubble wrinkles shirt sweater robe portrait robot monster
    ghost doodle sketch cartoon puppet
    """,
}
"""Words of the captions with one plain meaning, by part of speech; "light", "fade" or "dummy" mean too many things."""
COLOURS = "black brown brunette blond yellow red orange gray white silver pink blue green purple turquoise beige"
"""Colours lend to every shade that is one of their kinds."""

REFUSED = "honkey honkie honky whitey nappy pinko spanking kip redheaded value values resume content bran"
"""Words that insult, and some that WordNet leads astray."""

HELD_OUT: dict[str, tuple[str, tuple[str, ...]]] = {
    "a person with specs": ("eyes", ("glasses",)),
    "a person wearing bifocals": ("eyes", ("glasses",)),
    "a person wearing goggles": ("eyes", ("glasses", "sunglasses")),
    "a person wearing aviators": ("eyes", ("sunglasses",)),
    "a napping person": ("eyes", ("sleep",)),
    "a dozing person": ("eyes", ("sleep",)),
    "a slumbering person": ("eyes", ("sleep",)),
    "a snoring person": ("eyes", ("sleep",)),
    "a blinking person": ("eyes", ("wink",)),
    "a beaming person": ("mouth", ("bigSmile", "smile")),
    "a chuckling person": ("mouth", ("bigSmile",)),
    "a giggling person": ("mouth", ("bigSmile",)),
    "a gleeful person": ("mouth", ("bigSmile", "smile")),
    "a jolly person": ("mouth", ("bigSmile", "smile")),
    "a gloomy person": ("mouth", ("frown",)),
    "a miserable person": ("mouth", ("frown",)),
    "a sorrowful person": ("mouth", ("frown",)),
    "a dejected person": ("mouth", ("frown",)),
    "an astonished person": ("mouth", ("surprise",)),
    "an amazed person": ("mouth", ("surprise",)),
    "a startled person": ("mouth", ("surprise",)),
    "a stunned person": ("mouth", ("surprise",)),
    "a person with a soother": ("mouth", ("pacifier",)),
    "a person with azure hair": ("hair_colour", ("blue",)),
    "a person with navy hair": ("hair_colour", ("blue",)),
    "a person with crimson hair": ("hair_colour", ("red",)),
    "a person with scarlet hair": ("hair_colour", ("red",)),
    "a person with emerald hair": ("hair_colour", ("green",)),
    "a person with lime hair": ("hair_colour", ("green",)),
    "a person with magenta hair": ("hair_colour", ("pink",)),
    "a person with fuchsia hair": ("hair_colour", ("pink",)),
    "a person with flaxen hair": ("hair_colour", ("blond",)),
    "a person with chestnut hair": ("hair_colour", ("brown",)),
    "a person with chocolate hair": ("hair_colour", ("brown",)),
    "a person with ebony hair": ("hair_colour", ("black",)),
    "a person with raven hair": ("hair_colour", ("black",)),
    "a person with ashen hair": ("hair_colour", ("gray",)),
    "a hairless person": ("hair_style", ("bald",)),
    "a person wearing a bonnet": ("hair_style", ("beanie", "cap")),
    "a person with frizzy hair": ("hair_style", ("curly", "curlyBun", "curlyHighTop")),
    "a person with braids": ("hair_style", ("pigtails",)),
    "a person with lengthy hair": ("hair_style", ("long", "extraLong")),
    "a whiskered person": ("facial_hair", ("beardMustache",)),
    "a person with porcelain skin": ("skin", ("pale",)),
    "a person with bronze skin": ("skin", ("tan", "brown")),
    "a person with ebony skin": ("skin", ("dark",)),
    "a person in a scarlet shirt": ("clothes_colour", ("red",)),
    "a person in an azure shirt": ("clothes_colour", ("blue",)),
    "a person in an emerald shirt": ("clothes_colour", ("green",)),
    "a person in a mauve shirt": ("clothes_colour", ("purple",)),
    "a person on a mauve background": ("background", ("purple",)),
    "a person on an azure background": ("background", ("blue",)),
}
"""Sentence -> attribute and the values it makes true. Chosen before any word was looked up; none is in a caption."""
