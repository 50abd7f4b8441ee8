"""The words and wordings of the nano language's general world."""

FIRST = """mara tovi lena oska rudo ines pavo sila bram yuna keld nora otis vera milo tessa juno aldo hana
    ivo petra lars dina emil zora arno lucia finn greta hugo""".split()
LAST = """voss tull harn brandt okoro lind sato moss ferro quill dahl reyes stone wolf hale baker marsh
    kern abel frost""".split()
VALUES = {
    "home": """bako sundel firth morin calder vasto elm hollow pirna drava norrby tessin lorca gant ulmo
        berga""".split(),
    "job": """teacher farmer doctor painter singer driver cook tailor sailor nurse judge writer dancer miner
        pilot guard""".split(),
    "pet": "cat dog goat horse rabbit parrot turtle snake duck mouse pony hen lamb crow frog fish".split(),
    "food": "rice soup bread cheese beans plums corn cake honey nuts pears eggs pasta leek figs stew".split(),
}
ATTRIBUTES = tuple(VALUES)
# The first two wordings of a fact begin with the person and can be said with a pronoun.
FACTS = {
    "home": ("{n} lives in {v} .", "{n} has a house in {v} .", "the home of {n} is {v} ."),
    "job": ("{n} works as a {v} .", "{n} is a {v} .", "the job of {n} is {v} ."),
    "pet": ("{n} has a {v} .", "{n} keeps a {v} at home .", "the pet of {n} is a {v} ."),
    "food": ("{n} likes to eat {v} .", "{n} eats {v} every day .", "the food of {n} is {v} ."),
    "friend": ("{n} has a friend called {v} .", "{n} often visits {v} .", "the friend of {n} is {v} ."),
}
FACT_QUESTIONS = {
    "home": "question : where does {n} live ? answer :",
    "job": "question : what is the job of {n} ? answer :",
    "pet": "question : what is the pet of {n} ? answer :",
    "food": "question : what is the food of {n} ? answer :",
}

KIND_FIRST = """marsh hill river forest desert cave storm moon winter night dawn coast ridge valley lake polar
    swamp summer cloud shore""".split()
KIND_LAST = """lumo drin pelk snib orral vint grub tasp muro jask felu wimp corin bazz zeb hest""".split()
FAMILIES = "bird beetle lizard flower tree mushroom whale bear ape spider shark worm snail bat weed berry".split()
PROPERTIES = {
    "can": "fly swim climb dig sing glow jump hide".split(),
    "eats": "seeds grass leaves roots meat moss mud flies".split(),
    "lives in": "water holes nests trees rocks snow fields ice".split(),
    "has": "wings fins thorns horns fur scales spots claws".split(),
}
MEMBERSHIP = (
    "a {k} is a {f} .",
    "the {k} is a kind of {f} .",
    "one {f} is the {k} .",
    "people call the {k} a {f} .",
)
KIND_QUESTIONS = {
    "can": "question : what can a {k} do ? answer :",
    "eats": "question : what does a {k} eat ? answer :",
    "lives in": "question : where does a {k} live ? answer : in",
    "has": "question : what does a {k} have ? answer :",
}

THINGS = "boat table shirt fence bridge kite basket drum wall chair stove door roof lamp sled tent".split()
DOINGS = "build paint repair clean carry draw test hang sell pack bury polish".split()
STEPS = "cut fold heat fill tie press mix shake lift spread dry weigh open turn join count".split()
OBJECTS = """rope wood cloth stone nail glue wax clay paper wire brush bucket ladder oil sand leather ring
    spoon bag candle plate hook mirror bell key coin map pipe wheel pen sack coat""".split()
SCRIPT_OPENINGS = (
    "to {d} a {t} , first",
    "here is how to {d} a {t} :",
    "if you want to {d} a {t} ,",
    "the way to {d} a {t} is this :",
)
STEPS_PER_SCRIPT = 5

ACTIONS = """break bend lock move shine wash scrape seal split sharpen hold measure pull melt push crush mark trim
    stretch level smooth raise fasten loosen drain warm cool wrap hook dust scrub carve""".split()
TOOLS = "hammer saw knife needle shovel torch pump drill broom crane magnet sponge axe lever clamp ruler".split()
TOOLS_PER_ACTION = 4
GOALS = ("to {a} the {t} , use the", "if you need to {a} the {t} , take the", "you can {a} the {t} with the")
GOAL_REVERSED = "the {tool} is used to {a} the {t} ."

PLACES = "kitchen garden cellar barn attic yard shed hall".split()
PUT = ("{n} put the {o} in the {p} .", "{n} left the {o} in the {p} .")
FILLERS = (
    "it was a cold day .",
    "the sun was high .",
    "they talked for a long time .",
    "it began to rain .",
    "nobody said a word .",
    "then it was dark .",
)
ASK_PUT = ("later {n} came back for the", "in the {p} there was still the", "the next day {n} used the")
MEETINGS = (
    "{a} met {b} in the {p} .",
    "one day {a} and {b} sat in the {p} .",
    "{a} and {b} walked to the {p} .",
)
ASK_FACT = {
    "home": "then {n} went home to",
    "job": "then {n} went to work as a",
    "pet": "then {n} went to feed the",
    "food": "then {n} went to eat some",
}
