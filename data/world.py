"""Write the bundled sample corpus: short stories from a small world whose entropy is known.

    python data/world.py                                   # input.txt and input.json again
    python data/world.py --bytes 20000000 --seed 2 --out more.txt    # more of the same
    python data/world.py --questions 12 --seed 2 --out asked.txt     # with more questions
    python data/world.py --recaps --seed 2 --out recaps.txt          # easier to follow

Every story happens in a little world of people, things, boxes and places. The program keeps the
state of that world (who is where, who holds what) and only ever writes what is true in it, so
that later words follow from earlier ones: Mira's old key stays brass, and the person who was given
it last still has it. A model that only knows the previous token cannot follow that. One that looks
back can.

Four stories in five are about one thing, and everybody stays together: it is with the person who
got it last, which two minutes of training teach. In the others everybody has a thing and comes and
goes alone; who has which follows from two words at once, and that is learned last.

Every choice of the program passes one function, `Teller.pick`, which also adds up
-log2(probability). A choice is made only where the words that express it are written, and no two
ways of choosing write the same text (tests/test_world.py checks it), so the sum is the
information in the text: Shannon's entropy, the lower bound of every model's loss, but for luck.
input.json has it as `floor_bits_per_byte`.

Only random.Random(seed).random() is used, whose stream is the same on every platform and in
every version of Python, so the file is the same to the byte wherever it is made.
"""

import argparse
import functools
import hashlib
import json
import math
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

FORMAT = 3  # of the world: another format has other sentences and other questions
SEED = 1
TRAIN_BYTES = 2_000_000
HELD_OUT = 20  # validation and test are each a twentieth of the training split

# ---------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------


def phrases(text):
    """The phrases of a text, which ends of lines and slashes separate."""
    return tuple(part.strip() for part in re.split("[/\n]", text.strip()))


def table(text):
    """Phrases 'key: value' as a dictionary."""
    return dict(part.split(": ") for part in phrases(text))


def sections(text):
    """The indented lines after each name: {name: (line, ...)}. Lines with # are comments."""
    found, name = {}, ""
    for line in text.strip().splitlines():
        if line.startswith(" "):
            found[name] += (line.strip(),)
        elif not line.startswith("#"):
            name = line
            found[name] = ()
    return found


WOMEN = "Anna Mira Rosa Lucy".split()
MEN = "Tom Ben Max Leo".split()
ROLES = (
    "baker miller farmer teacher sailor smith doctor weaver painter tailor gardener fisher "
    "potter shepherd singer hunter"
).split()
PLACES = "mill harbour bakery school farm market inn castle".split()

# What a thing or a box can look like, of any material.
LOOKS = "old new little big plain pretty fine strange lovely dusty lucky famous".split()
# What a thing or a box can be made of (hard) or what colour it has (soft).
HARD = table("""
    key: brass iron copper silver / bell: brass copper silver glass / spoon: silver oak pine bone
    cup: clay tin silver glass / ring: copper silver bone / whistle: tin bone brass pine
    lamp: brass glass iron clay / coin: copper silver brass / comb: bone pine silver
    needle: bone silver iron / flute: bone pine silver oak / mirror: silver glass brass
    bowl: clay oak glass copper / hammer: iron oak stone / plate: tin clay silver
    compass: brass silver copper / vase: glass clay stone / medal: silver copper brass tin
    wheel: oak iron stone / button: bone brass glass
""")
COLOURS = "red blue green yellow white black grey brown purple pink"
SOFT = dict.fromkeys(
    "scarf hat book kite ball ribbon blanket coat glove drum flag letter umbrella purse doll shawl"
    " feather pencil apron belt".split(),
    COLOURS,
)
BOXES = table("""
    box: tin iron oak copper / chest: oak iron pine stone / jar: glass clay stone tin
    barrel: oak pine iron / bucket: tin iron pine / pot: clay copper iron brass
    trunk: iron oak tin / basket: brown white green red / bag: blue grey black red
    sack: brown grey white yellow / crate: green yellow blue pine / cupboard: oak white blue green
""")
SPOTS = phrases("""
    under the bench / behind the door / beside the stove / under the stairs / by the window
    on the shelf / in the corner / near the gate / beside the clock / behind the curtain
""")

DAY = {
    "One morning": "When evening came,",
    "One day": "When the sun went down,",
    "One afternoon": "When it grew dark,",
}
DARK = {"One evening": "When the moon was high,", "One night": "When the lamps went out,"}
# By season: weather that suits the day, weather that suits the dark, what else can be seen.
SEASONS = {
    "spring": (
        phrases("""
            a warm wind blew from the hills / the sun shone on the wet roofs
            rain fell softly on the young grass / white clouds sailed over the valley
        """),
        phrases("""
            the frogs were singing in the pond / mist rose from the meadow
            a gentle rain was tapping on the windows
        """),
        phrases("""
            A lamb cried for its mother. / The swallows were building their nests.
            Somewhere a cuckoo called. / The plum trees were full of blossom.
            A rainbow stood over the village. / Bees hummed among the tulips.
        """),
    ),
    "summer": (
        phrases("""
            the air was hot and still / the sun burned on the dusty road
            not one cloud was in the sky / butterflies danced over the wheat
        """),
        phrases("""
            thunder rolled behind the mountains / the crickets were loud in the hedges
            a red sunset faded over the sea
        """),
        phrases("""
            A dragonfly rested on a reed. / The cows stood in the shade.
            Children were splashing in the stream. / The hay smelled sweet.
            A lizard slept on the wall. / Far away a cart rattled along.
        """),
    ),
    "autumn": (
        phrases("""
            the wind chased yellow leaves along the street / a thick fog hid the river
            the fields were bare and muddy / wild geese flew across the sky
        """),
        phrases("""
            a storm shook the shutters / the owls called in the forest
            smoke from many chimneys drifted over the houses
        """),
        phrases("""
            A squirrel ran off with a chestnut. / Mushrooms grew along the path.
            The crows quarrelled in an old elm. / Apples lay in the grass.
            It smelled of damp earth. / A spider had spun its web between two posts.
        """),
    ),
    "winter": (
        phrases("""
            snow lay deep on every roof / the river was covered with ice
            a pale sun hung over the white fields / frost glittered on the fences
        """),
        phrases("""
            snowflakes whirled around the lanterns / the stars were bright and cold
            an icy wind howled in the chimney
        """),
        phrases("""
            A robin hopped over the snow. / Icicles hung from the eaves.
            A hungry fox crept past. / Somebody had made a snowman.
            The dogs stayed close to the fire. / Sledges creaked on the frozen track.
        """),
    ),
}
ADJECTIVES = {
    "spring": "mild fresh bright",
    "summer": "hot lazy golden",
    "autumn": "windy misty grey",
    "winter": "cold frosty quiet",
}

TASKS = phrases("""
    swept the floor / mended a net / fed the hens / sang an old song / drew a map
    wrote a long list / chopped wood / washed the dishes / peeled potatoes / sharpened a knife
    hung up the laundry / planted beans / told a joke / read the newspaper / tied a knot
    lit the candles / carved a horse / fixed a broken chair / stirred the soup
    yawned and stretched / whistled a tune / watched the boats / scratched the cat behind its ears
    practised a speech / did some sums / dozed for an hour
""")
MEALS = phrases("""
    bread and cheese / hot onion soup / a slice of apple cake / ripe plums / fried fish
    porridge with honey / roasted nuts / a plate of beans / pancakes with jam / boiled eggs
    cherry pie / sausages and cabbage / warm milk and biscuits / pears and cream
""")
TOPICS = phrases("""
    the great flood / the new mayor / a whale in the bay / the price of flour
    a wedding in the town / ghosts / the old king's gold / a circus with elephants
    their school days / the ship from China / a thief who had never been caught
    the best way to catch trout / the next dance / a dream about flying / the war long ago
    how bears sleep / the tower that fell / cousins in America
""")
ORIGINS = phrases("""
    at the fair / on the beach / in a ditch / in a shop far away / under a hedge / in the attic
    among some ruins / on a journey to the south
""")
GIVERS = phrases("""
    grandmother / uncle / aunt / godfather / sister / brother / neighbour
""")
HAPPY = phrases("""
    happy / glad / cheerful / proud / pleased / merry
""")
HEARD = phrases("""
    laughed / listened / shook with laughter / did not believe a word of it / wanted to hear more
    knew even more about it / only shrugged / fell asleep
""")
SAD = phrases("""
    sad / worried / unhappy / gloomy / lonely / upset
""")
LEADS = phrases("""
    Before long, / A little later, / Soon after that, / After a while, / Then / Some time later,
    Not long after, / By and by, / At last / After that,
""")
WHY_WANT = phrases("""
    because {B.he} had lost {B.his} own / because {B.he} had never seen a finer one
    because it might bring {B.him} luck / to show it to a friend / for no good reason at all
    because the children had asked for it
""")
WHY_HOLD = phrases("""
    because {B.he} had never seen a finer one / because it might bring {B.him} luck
    to show it to a friend / for no good reason at all / because it was so pretty
""")
WHY_HIDE = phrases("""
    so that nobody would steal it / for a joke / to keep it safe and dry
    because {A.he} was afraid of thieves / and told nobody why / and hoped it would be safe
""")
EXCUSES = phrases("""
    Not today / I am sorry, but I need it myself / You would only lose it / Ask me again tomorrow
    My answer is no
""")
THANKS = phrases("""
    Thank you / How kind of you / I will be careful with it / You are a good friend
    I will not forget this
""")

# ---------------------------------------------------------------------------------------------
# Sentences
# ---------------------------------------------------------------------------------------------

# Slots name somebody or something in the event, then the form in which it is written (`slot`).
# A, B, C: people. t, u: things. x: a box. p: a place that is chosen here. w: other words.
# A form that only the story so far decides (holder, place, sure, ...) is recorded as a recall.
SENTENCES = sections("""
# Somebody is introduced, with a place and a thing.
meet
    {A} the {A.new} was at the {p} with {A.his} {t.new}.
    {A} the {A.new} had come to the {p}, and {A.he} had {t.a} with {A.him}.
    At the {p} stood {A} the {A.new}, who was holding {t.a}.
    At the {p} there was a {A.new} called {A}, who owned {t.a}.
    A {A.new} whose name was {A} sat at the {p} and looked at {A.his} {t.new}.
    Whoever came to the {p} could see {A} the {A.new} there, with {t.a} in {A.his} hands.
meet there
    {A} the {A.new} was there too, with {A.his} {t.new}.
    Beside {B} sat {A} the {A.new}, who had brought {t.a}.
    With {B} was {A}, a {A.new} who owned {t.a}.
    {B}'s friend {A} the {A.new} was there as well, and {A.he} had {t.a}.
# Somebody joins the others, in a story of one thing.
join
    {A} the {A.new} was there too.
    Beside {B.him} sat {A} the {A.new}.
    With {B.him} was {A}, a {A.new}.
    {B.His} friend {A} the {A.new} was there as well.
past
    {A.His} {w} had given {A.him} the {t.own}.
    {A.He} had found {t.sure} {o}.
    {A.He} never went anywhere without {A.his} {t.own}.
    {A.He} was very proud of {A.his} {t.own}.
    Everybody knew that {t.sure} was {t.owner}'s.
    It was a fine thing, {t.sure}, and {A.he} had paid well for it {o}.
# Going somewhere.
go
    {A} left the {A.place} and went to the {p}.
    {A} said goodbye and walked to the {p}.
    {A} had work to do at the {p}, so {A.he} went there.
    {A} walked from the {A.place} to the {p}, {h} and singing.
    {A} was tired of the {A.place} and wandered off to the {p}.
    {A} heard that help was needed, and {A.he} ran to the {p}.
    "They are waiting for me at the {p}," said {A}, and left the {A.place}.
    "Today I want to see the {p}," said {A}, and off {A.he} went.
travel
    they {n} left the {A.place} and went to the {p}.
    they said goodbye to the {A.place} and walked to the {p} together.
    there was nothing more to do at the {A.place}, so {n} of them went to the {p}.
    "Let us go to the {p}," they said, and left the {A.place} together.
    "Today we want to see the {p}," they said, and off they went.
fetch go
    So {B} went to the {t.place}.
    {B} hurried to the {t.place} at once.
    {B} walked from the {B.place} to the {t.place}.
    That meant a walk to the {t.place}.
    Off {B} went to the {t.place}.
carrying
    {A} took {u} along.
    {A} had {u} in {A.his} pocket.
    {A} carried {u} under {A.his} arm.
    With {A} went {u}.
# Wanting a thing that somebody holds.
want
    {B} wanted {t.owners}, {w}.
    {B} wished to borrow {t.owners}, {w}.
    {B} could not stop thinking about {t.owners}.
    {B} had heard so much about {t.owners} that {B.he} wanted to hold it once.
    "I would love to have {t.owners}," said {B}.
    "If only I had {t.owners}!" thought {B}.
want it
    {A} showed {t.sure} to {B}, who wanted it, {w}.
    {A} held up {t.sure}, and {B} could not stop looking at it.
    {A} talked so much about {t.sure} that {B} wanted to hold it once.
    {A} let {B} look at {t.sure}, and {B.he} wished to have it, {w}.
    "I would love to have {t.sure}, {A}," said {B}.
    "If only I had {t.sure}, and not {A}!" thought {B}.
want back
    {B} wanted {B.his} {t.own} back.
    {B} missed {B.his} {t.own}.
    {B} had waited long enough for {B.his} {t.own}.
    "I need my {t.bare} again," said {t.owner}.
    "It is time to get my {t.bare} back," thought {t.owner}.
meet holder
    There {B} found {t.holder}.
    There was {t.holder}, with {t.sure}.
    And there, holding {t.sure}, was {t.holder}.
ask
    "May I have {t.sure}?" {B.he} asked.
    {B.He} asked {t.holder} for {t.sure}.
    "Please, {t.holder}, let me have {t.sure}," {B.he} said.
    "Will you give {t.sure} to me, {t.holder}?" {B.he} asked.
    {B.He} took a deep breath and asked {t.holder} for {t.sure}.
yes
    {t.holder} gave {t.sure} to {B}.
    "Of course," said {t.holder}, and gave {t.sure} to {B.him}.
    {t.holder} thought about it, nodded and gave {t.sure} to {B}.
    With a smile {t.holder} handed {t.sure} to {B}.
    "Here it is," answered {t.holder}, and {B.he} took {t.sure}.
    At first {t.holder} said nothing, but then {t.he} gave {t.sure} to {B}.
no
    "{w}," said {t.holder}, and kept {t.sure}.
    But {t.holder} shook {t.his} head and kept {t.sure}.
    "{w}," {t.holder} answered, so {B} did not get {t.sure}.
    But {t.holder} would not give it away, and {B} left it at that.
thanks
    "{w}," said {t.holder}.
    "{w}!" cried {t.holder}, who was {h} now.
    That made {t.him} {h}.
now has
    Now {t.holder} had {t.sure} at the {t.place}.
    So {t.sure} was with {t.holder} at the {t.place} now.
    From then on {t.holder} had {t.sure}.
    And that is how {t.holder} came to have {t.sure}.
bring
    {A} took {t} to the {B.free} and gave it to {B.lone}.
    {A} went to the {B.free}, found {B.lone} there and gave {B.him} {t}.
    {A} went to see {B} at the {B.place} and handed {t} to {B}.
    {A} thought that {B} should have {t}, so {A} took it to the {B.place}.
    "I have something for {B}," said {A}, went to the {B.place} and gave {B.him} {t}.
bring here
    {A} turned to {B} and gave {t} to {B.him}.
    {A} put {t} into the hands of {B}.
    {A} thought that {B} should have {t}, and gave it to {B}.
    "This is for you," said {A}, and gave {t} to {B}.
bring back
    {A} had kept {t.owners} long enough.
    {A} remembered that {t} was {t.owner}'s.
    "This {t.bare} belongs to {t.owner}," said {A}.
errand
    "Could you take {t} to {B}?" {C} asked {A}.
    {C} asked {A} to take {t} to {B}.
    {C} said to {A} that {B} might like to have {t}.
swap
    {A} and {B} made a trade: {A} gave {t} to {B}, and {B} gave {u} to {A}.
    {A} let {B} have {t}, and got {u} for it.
    "Let us trade for a day," said {A}, so {B} took {t} and {A} took {u}.
# Boxes.
hide
    {A} put {t} in {x.any} {x.spot}, {w}.
    {A} hid {t} in {x.any} {x.spot}, {w}.
    {A} opened {x.any} {x.spot}, laid {t} inside and closed it again.
    {A} looked for a place for {t}, and chose {x.any} {x.spot}.
    "I will put {t} away," said {A}, and put it in {x.any} {x.spot}.
    "Here {t} will be safe," said {A}, and laid it in {x.any} {x.spot}.
sneak
    {A} was asleep, so {B} quietly took {t} and put it in {x.any} {x.spot}.
    {B} waited until {A} was not looking, and hid {t} in {x.any} {x.spot}.
    {B} played a trick on {A}: {B.he} put {t} in {x.any} {x.spot}.
    "This will be fun," thought {B}, who took {t} from {A} and put it in {x.any} {x.spot}.
now in
    Now {t.sure} was in {t.box} {t.spot}.
    So there {t.sure} lay, in {t.box} {t.spot}.
    That is how {t.sure} came to be in {t.box}.
    And in {t.box} {t.spot} it stayed for now.
look for
    {B} was looking for {t.owners}.
    {B} remembered {t} in {t.box} {t.spot}.
    {B} had an idea where {t.owners} might be.
    "I wonder what is in {t.boxed}," said {B}.
    "{t.The} must be in {t.box}," said {B}.
look for it
    {B} was looking for {t.sure}.
    {B} remembered where {t.sure} was.
    "I wonder what is in {t.box}," said {B}.
    "I need {t.sure} now," said {B}.
take out
    {B} opened {t.box} {t.spot}, and {t.sure} was there.
    {B} looked into {t.box} {t.spot} and took {t.sure} out.
    {B} lifted {t.sure} out of {t.box}.
    When {B} opened {t.box}, {t.sure} was inside, and {B.he} took it.
# Asking where things and people are.
where
    {A} looked for {A.his} {t.own} everywhere.
    {A} asked everybody about {A.his} {t.own}.
    "Where is my {t.bare}?" asked {t.owner}.
    "Has anybody seen my {t.bare}?" asked {t.owner}.
    "My {t.bare} is gone!" cried {t.owner}.
answer me
    "I have it here," said {t.holder}.
    "It is here with me," said {t.holder}.
    It was {t.holder} who had it, and {t.he} said so.
answer held
    "It is with {t.holder} at the {t.place}," said {B}.
    "I saw it with {t.holder} at the {t.place}," {B} answered.
    "Go to the {t.place}," said {B}. "I think that {t.holder} has it."
    {B} told {A.him} that it was with {t.holder}.
answer boxed
    "It is in {t.box} {t.spot} at the {t.place}," said {B}.
    "Look in {t.box} at the {t.place}," {B} answered.
    {B} told {A.him} to look in {t.box} {t.spot}.
who has
    {A} wanted to know who had {t.owners} now. "It is with {t.holder}," said {B}.
    {A} asked {B} about {t.owners}, and heard that {t.holder} had it.
    "Who has {t.owners} now?" asked {A}. "It is with {t.holder}," said {B}.
    "Tell me who has {t.owners}," said {A}. "I think {t.holder} has it," answered {B}.
who has it
    {A} wanted to know who had {t.sure} now. "It is with {t.holder}," said {B}.
    {A} asked {B} about {t.sure}, and heard that {t.holder} had it.
    "Who has {t.sure} now?" asked {A}. "It is with {t.holder}," said {B}.
    "Tell me who has {t.sure}," said {A}. "I think {t.holder} has it," answered {B}.
where is
    {A} asked where {C} was today. "At the {C.place}," said {B}.
    {A} asked {B} about {C}, and heard that {C.he} was at the {C.place}.
    "And where is {C} today?" asked {A}. "At the {C.place}," said {B}.
    "Do you know where {C} is?" asked {A}. "Yes, at the {C.place}," said {B}.
# Saying again what is so.
still held
    All this time {t} was with {t.holder} at the {t.place}.
    As for {t}, {t.holder} still had it at the {t.place}.
    {t.The} was still with {t.holder} at the {t.place}.
    Everybody could see {t} at the {t.place}, where {t.holder} was.
    Anybody who asked for {t} was sent to {t.holder} at the {t.place}.
still has it
    All this time {t} was with {t.holder} at the {t.place}.
    {t.The} was still with {t.holder} at the {t.place}.
    Everybody knew that {t} was with {t.holder}.
    {A} still had {t} at the {A.place}.
    {A}, who had {t}, was still at the {A.place}.
still in
    {t.The} was still in {t.box} {t.spot}.
    As for {t}, it still lay in {t.box} {t.spot} at the {t.place}.
    All this time {t} was in {t.box} at the {t.place}.
    Nobody had opened {t.boxed} {t.spot}, where {t} lay.
still in it
    {t.The} was still in {t.box} {t.spot}.
    All this time {t} was in {t.box} at the {t.place}.
    Nobody had opened {t.box}, where {t} lay.
# The same of what has only just got there.
is held
    Everybody could see {t} at the {t.place}, where {t.holder} was.
    Anybody who asked for {t} was sent to {t.holder} at the {t.place}.
    {t.The} looked fine in the hands of {t.holder}.
is in
    {t.The} was well hidden in {t.box} {t.spot}.
    Nobody could see {t} in {t.box} {t.spot}.
    {t.The} would be safe in {t.box}.
has it
    Everybody could see {t} at the {t.place}, where {t.holder} was.
    Anybody who asked for {t} was sent to {t.holder} at the {t.place}.
    {t.The} looked fine in the hands of {t.holder}.
    {A} was at the {A.place} with {t}.
    At the {A.place}, {A} {w} and kept an eye on {t}.
    {A} {w} and did not let go of {t}.
still with
    {A}, who had {u}, was still at the {A.place}.
    {A} was at the {A.place} with {u}.
    At the {A.free}, {A.lone} {w} and kept an eye on {u}.
    {A} stayed at the {A.place} and did not let go of {u}.
still at
    {A} was still at the {A.place} and {w}.
    {A} the {A.role} stayed at the {A.place} and {w}.
    At the {A.free}, {A.lone} the {A.role} {w}.
    There was not much to do at the {A.free}, so {A.lone} {w}.
glad
    {A} was {h} to have {A.his} {t.own}.
    {A} held {A.his} {t.own} tight and felt {h}.
    As long as {A} had {A.his} {t.own}, {A.he} was {h}.
sorry
    {A} felt {s} without {A.his} {t.own}.
    {A} was {s} because {t.sure} was not with {A.him}.
    How {s} {A} was without {A.his} {t.own}!
visit
    {A} went to see {B} at the {B.place}, and they talked about {w}.
    {A} came to the {B.free}, where {B.lone} was, and they ate {m} together.
    {A} paid {B} a visit at the {B.place}. They shared {m} and talked about {w}.
    {A} brought {m} to the {B.free}, because {B.lone} was hungry.
    "I must see {B}," said {A}, and walked to the {B.place}. There they talked about {w}.
    "What is {B} doing?" wondered {A}, and went to the {B.place} to find out.
together
    {A} and {B} were both at the {A.place}, so they ate {m} together.
    {A} and {B} sat together at the {A.place} and talked about {w}.
    {A} told {B} about {w}, and {B} {k}.
    "Are you hungry?" {A} asked {B}. So they shared {m} at the {A.place}.
    "Have you heard about {w}?" {A} asked {B}, who {k}.
# The end.
end with
    {A} was at the {A.place} with {A.all}.
    {A} was at the {A.place} and had {A.all}.
    {A} sat at the {A.place} beside {A.all}.
end empty
    {A} was at the {A.place} with empty hands.
    {A} was at the {A.place} and had nothing.
end held
    {t.sure} was with {t.holder}, and {n} of them were at the {A.place}.
    {t.holder} had {t.sure}, and {n} of them were at the {A.place}.
    they were {n} at the {A.place}, and {t.sure} was with {t.holder}.
end all
    they were {n} at the {A.place}.
    {n} of them were at the {A.place}.
end box
    {t.The} lay in {t.box} {t.spot} at the {t.place}.
moral
    And they were good friends, as before.
    That was the end of it.
    It had been a long day for everybody.
    Nobody ever spoke of it again.
    They laughed about it for years.
    And so to bed.
question role
    Question: Who was the {A.work}? Answer: {A.named}.
question trade
    Question: What was {A}'s trade? Answer: {A.role}.
question place
    Question: Where was {A}? Answer: at the {A.place}.
question made
    Question: What was the {t.noun} made of? Answer: {t.adjective}.
question colour
    Question: What colour was the {t.noun}? Answer: {t.adjective}.
question owner
    Question: Whose was {t}? Answer: {t.owner}'s.
question who
    Question: Who had {t}? Answer: {t.holder}.
question held
    Question: Where was {t}? Answer: with {t.holder} at the {t.place}.
question boxed
    Question: Where was {t}? Answer: in {t.box} at the {t.place}.
""")


def by_adjective(table):
    """adjective -> the nouns that it goes with."""
    words = " ".join(table.values()).split()
    return {
        word: [noun for noun in table if word in table[noun].split()]
        for word in dict.fromkeys(words)
    }


OBJECTS, BOX_OBJECTS = by_adjective({**HARD, **SOFT}), by_adjective(BOXES)
SLOT = re.compile(r"\{([^{}]+)\}")
split_slots = functools.cache(SLOT.split)
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
IT = ("", "The", "sure")  # forms of a thing for which "it" can stand
PRONOUNS = {
    "he": ("he", "she"),
    "him": ("him", "her"),
    "his": ("his", "her"),
    "He": ("He", "She"),
    "His": ("His", "Her"),
}


@dataclass(eq=False)
class Person:
    name: str = ""  # empty: not yet chosen, which `Teller` does where it writes the word
    role: str = ""
    place: str = ""

    @property
    def she(self):
        return self.name in WOMEN


@dataclass(eq=False)
class Box:
    place: str
    look: str = ""
    adjective: str = ""
    noun: str = ""
    spot: str = ""


@dataclass(eq=False)
class Thing:
    owner: Person
    keeper: "Person | Box"  # who holds it, or the box that it lies in
    look: str = ""
    adjective: str = ""
    noun: str = ""
    hider: Person | None = None  # who put it there last


@dataclass
class Recall:
    """A place in a story where the story so far decides the next word.

    `kind`: attribute (which adjective, noun, spot belongs together), role, owner, holder, place
    (of a person), name, box (that a thing is in), holder_place and box_place (two steps: the
    place of the person who has a thing, of the box that it is in). `offset`: characters from
    the start of the story. `alternatives`: the answers of this kind that the story offers, the
    right one among them. `distance`: sentences since the story last told it.
    """

    kind: str
    offset: int
    answer: str
    alternatives: list[str]
    distance: int


@dataclass
class Story:
    text: str
    bits: float  # -log2 of this story's probability
    recalls: list[Recall] = field(default_factory=list)


class Teller:
    """Tells one story: the state of its world, its text so far, and what its choices cost."""

    kinds = (4, 1)  # how often a story has one thing, how often several

    def __init__(self, choose, n_questions=None, recaps=False):
        self.choose = choose  # weights -> index: the only source of chance
        self.n_questions = n_questions  # after each story; None: two to four, or none
        self.recaps = recaps  # after half of the events: where everybody is, and with what?
        self.bits = 0.0
        self.pieces = []
        self.length = 0  # characters so far
        self.sentences = 0  # sentences ended so far
        self.fresh = True  # at the start of a paragraph?
        self.people, self.things, self.boxes = [], [], []
        self.been = {}  # the places of the story so far, in their order
        self.single = False  # one thing, and everybody at one place?
        self.named = False  # does the paragraph name a thing so far?
        self.moved = []  # the things that somebody else got in this paragraph
        self.told = {}  # fact -> the number of the last sentence that said it
        self.recalls = []

    # ---- chance and text ----

    def pick(self, options, weights=None):
        """One of the options, and its cost in bits. Every choice of the program is made here."""
        if len(options) == 1:
            return options[0]
        weights = weights or [1] * len(options)
        index = self.choose(weights)
        self.bits += math.log2(sum(weights) / weights[index])
        return options[index]

    def say(self, text):
        self.pieces.append(text)
        self.length += len(text)
        self.sentences += text.count(".") + text.count("?") + text.count("!")
        self.fresh = text.endswith("\n")

    def paragraph(self):
        if not self.fresh:
            self.say("\n")
        self.named, self.moved = False, []

    def recall(self, kind, answer, alternatives, *facts):
        """Write `answer`, which earlier facts decide, and record that it is so."""
        distance = self.sentences - min(self.told[fact] for fact in facts)
        self.recalls.append(Recall(kind, self.length, answer, list(alternatives), distance))
        self.say(answer)
        for fact in facts:
            self.told[fact] = self.sentences

    def know(self, kind, who, late=0):
        """Record that the sentence being written (late=1: the last one) says this fact."""
        self.told[kind, who] = self.sentences - late

    def tell(self, event, lead=False, **cast):
        """Write one of the event's sentences; `lead`: one that can follow the paragraph's lead."""
        sentences = SENTENCES[event]
        if lead:  # "Before long, Tom ..." but never 'Before long, "I ...'
            sentences = [text for text in sentences if text.startswith('"') != bool(self.lead)]
        self.write(self.pick(sentences), **cast)

    def write(self, sentence, gap=True, **cast):
        if gap and not self.fresh:
            self.say(" ")
        for i, part in enumerate(split_slots(sentence)):
            if i % 2 == 0:
                if part:
                    self.say(part)
                continue
            who, _, form = part.partition(".")
            who = cast[who]
            if isinstance(who, tuple):  # words that are chosen only here
                self.write(self.pick(who), gap=False, **cast)
            elif callable(who):
                self.say(who())
            else:
                {Person: self.person, Thing: self.thing, Box: self.box}[type(who)](who, form)

    # ---- the forms in which people, things and boxes are written ----

    def person(self, who, form):
        names = [each.name for each in self.people]
        if form == "":
            if not who.name:
                free = [name for name in WOMEN + MEN if name not in names]
                if self.single and len(names) == 1:  # a man and a woman
                    free = [name for name in free if (name in WOMEN) != self.people[0].she]
                who.name = self.pick(free)
            self.say(who.name)
            self.know("name", who)
        elif form == "new":
            taken = [each.role for each in self.people]
            who.role = self.pick([role for role in ROLES if role not in taken])
            self.say(who.role)
            self.know("role", who)
        elif form == "work":
            self.say(who.role)
        elif form == "named":
            self.recall("name", who.name, names, ("role", who))
        elif form == "role":
            self.recall("role", who.role, [each.role for each in self.people], ("role", who))
        elif form == "place":
            self.recall("place", who.place, self.places(), ("place", who))
        elif form == "free":  # not decided: the place says which person is meant
            self.say(who.place)
        elif form == "lone":  # decided if nobody else is at that place
            if [each.place for each in self.people].count(who.place) == 1:
                self.recall("name", who.name, names, ("place", who))
            else:
                self.say(who.name)
            self.know("name", who)
        elif form == "all":
            held = self.held(who)
            for i, thing in enumerate(held):
                self.say("" if i == 0 else " and " if i == len(held) - 1 else ", ")
                self.thing(thing, "sure")
        else:
            pronouns = PRONOUNS[form]
            self.recall("pronoun", pronouns[who.she], pronouns, ("name", who))

    def described(self, thing, among):
        """' brass key', after a look that says which one is meant."""
        fact = ("box" if isinstance(thing, Box) else "thing", thing)
        for part in ("adjective", "noun"):
            self.say(" ")
            self.recall(
                "attribute", getattr(thing, part), [getattr(each, part) for each in among], fact
            )

    def thing(self, thing, form):
        looks = [each.look for each in self.things]
        adjectives = [each.adjective for each in self.things]
        keeper, fact = thing.keeper, ("holder", thing)
        if self.is_it(form):
            self.say("It" if form == "The" else "it")
            return
        if form in ("new", "a", "", "The", "bare", "sure", "own", "owners"):
            self.named = True
        if form in ("new", "a"):
            self.new_object(thing, OBJECTS, article=form == "a")
            self.know("thing", thing)
            self.know("holder", thing)
            self.know("owner", thing)
        elif form == "noun":
            self.say(thing.noun)
        elif form == "adjective":
            self.recall("attribute", thing.adjective, adjectives, ("thing", thing))
        elif form in ("", "The"):  # the adjective says which thing
            self.say(f"{form or 'the'} {thing.look}")
            self.described(thing, self.things)
        elif form == "bare":
            self.say(thing.look)
            self.described(thing, self.things)
        elif form in ("sure", "own"):
            self.say("the " if form == "sure" else "")
            self.recall("attribute", thing.look, looks, ("thing", thing))
            self.described(thing, self.things)
        elif form == "owners":  # the owner's name says which thing
            self.say(f"{thing.owner.name}'s ")
            self.recall("attribute", thing.look, looks, ("owner", thing))
            self.described(thing, self.things)
        elif form == "owner":
            self.recall(
                "owner", thing.owner.name, [each.name for each in self.people], ("owner", thing)
            )
            self.know("name", thing.owner)
        elif form == "holder":
            self.recall("holder", keeper.name, [each.name for each in self.people], fact)
            self.know("name", keeper)
        elif form == "place" and isinstance(keeper, Person):
            self.recall("holder_place", keeper.place, self.places(), fact, ("place", keeper))
        elif form == "place":
            self.recall("box_place", keeper.place, self.places(), fact, ("box", keeper))
        elif form == "box":
            boxes = self.boxes
            self.say("the ")
            self.recall("box", keeper.look, [each.look for each in boxes], fact)
            self.described(keeper, boxes)
        elif form == "spot":
            self.recall(
                "attribute", keeper.spot, [each.spot for each in self.boxes], ("box", keeper)
            )
        elif form == "boxed":  # says which box
            self.say(f"the {keeper.look}")
            self.described(keeper, self.boxes)
        else:
            self.person(keeper, form)

    def is_it(self, form):
        """A story's one thing is named once in a paragraph, and is "it" from there on."""
        return self.single and self.named and form in IT

    def both(self):
        return "both" if len(self.people) == 2 else "all"

    def box(self, box, form):
        fact = ("box", box)
        if form == "any" and not box.noun:
            self.new_object(box, BOX_OBJECTS, article=True)
            self.know(*fact)
        elif form == "any":
            self.say("the ")
            self.recall("attribute", box.look, [each.look for each in self.boxes], fact)
            self.described(box, self.boxes)
        elif box.spot:
            self.recall("attribute", box.spot, [each.spot for each in self.boxes], fact)
        else:
            taken = [each.spot for each in self.boxes]
            box.spot = self.pick([spot for spot in SPOTS if spot not in taken])
            self.say(box.spot)

    def new_object(self, new, table, article):
        """Write a look, an adjective and a noun that are all new to the story."""
        used = [word for each in self.things + self.boxes for word in (each.adjective, each.noun)]
        free = {
            adjective: [noun for noun in nouns if noun not in used]
            for adjective, nouns in table.items()
            if adjective not in used
        }
        taken = [each.look for each in self.things + self.boxes]
        new.look = self.pick([look for look in LOOKS if look not in taken])
        if article:
            self.say("an " if new.look[0] in "aeiou" else "a ")
        self.say(new.look + " ")
        new.adjective = self.pick([adjective for adjective in free if free[adjective]])
        self.say(new.adjective + " ")
        new.noun = self.pick(free[new.adjective])
        self.say(new.noun)

    # ---- the state ----

    def places(self):
        """The places that the story has had so far, each once."""
        return list(self.been)

    def held(self, who):
        return [thing for thing in self.things if thing.keeper is who]

    def near(self, who):
        """The other people at the same place."""
        return [each for each in self.people if each is not who and each.place == who.place]

    def give(self, thing, keeper):
        thing.keeper = keeper
        self.moved.append(thing)
        self.know("holder", thing, late=1)

    def put(self, who, thing, box):
        self.give(thing, box)
        thing.hider = who
        if box not in self.boxes:
            self.boxes.append(box)

    def move(self, who, place):
        who.place = place
        self.been[place] = None
        self.know("place", who, late=1)

    # ---- the story's parts ----

    def opening(self):
        season = self.season = self.pick(list(SEASONS))
        day, dark, self.sights = SEASONS[season]
        form = self.pick(["One", "It was", "Long ago"], [8, 2, 1])
        self.night = False
        if form == "One":
            time = self.pick([*DAY, *DARK], [6, 2, 2, 3, 1])
            self.night = time in DARK
            weather = self.pick(dark if self.night else day)
            self.write(
                f"{time} in {season}, {weather}."
                if self.pick([True, False])
                else f"{time} {weather}."
            )
        elif form == "It was":
            kind = self.pick(ADJECTIVES[season].split())
            self.night = self.pick([False, True], [2, 1])
            time = "evening" if self.night else "morning"
            weather = self.pick(dark if self.night else day)
            self.write(f"It was a {kind} {season} {time}, and {weather}.")
        else:
            self.write(f"Long ago, on a day in {season}, {self.pick(day)}.")

    def meet(self):
        """Introduce somebody: one sentence says name, place, role and thing.

        If the second one has no thing, nobody after him has, and they stay together.
        """
        friend = self.people[-1] if self.people else None
        if len(self.people) == 1:
            self.single = self.pick([True, False], self.kinds)
        if self.single:
            self.join(friend)
            return
        there = friend is not None and self.pick([True, False], [2, 3])
        who = Person()
        thing = Thing(owner=who, keeper=who)
        places = [place for place in PLACES if not friend or place != friend.place]
        self.tell(
            "meet there" if there else "meet",
            A=who,
            B=friend,
            t=thing,
            p=lambda: self.choose_place(places),
        )
        self.move(who, friend.place if there else self.chosen)
        self.people.append(who)
        self.things.append(thing)
        if self.pick([True, False], [1, 2]):
            self.tell("past", A=who, t=thing, w=GIVERS, o=ORIGINS)

    def join(self, friend):
        who = Person()
        self.tell("join", A=who, B=friend)
        self.move(who, friend.place)
        self.people.append(who)

    def choose_place(self, places, weights=None):
        self.chosen = self.pick(places, weights)
        return self.chosen

    def go(self, who, lead=False):
        """To a place of the story (twenty times as likely each) or to any other."""
        places = [place for place in PLACES if place != who.place]
        weights = [20 if place in self.places() else 1 for place in places]
        self.tell("go", lead, A=who, h=HAPPY, p=lambda: self.choose_place(places, weights))
        self.move(who, self.chosen)
        held = self.held(who)
        if held and self.pick([True, False]):
            self.tell("carrying", A=who, u=self.pick(held))

    def result(self, thing):
        if self.pick([True, False], [3, 2]):
            self.tell("now has" if isinstance(thing.keeper, Person) else "now in", t=thing)

    def get(self, who, thing, sure):
        """`who` goes to where the thing is and asks for it, or takes it out of its box."""
        keeper = thing.keeper
        boxed = isinstance(keeper, Box)
        if who.place != keeper.place:
            self.tell("fetch go", B=who, t=thing)
            self.move(who, keeper.place)
            if not boxed and self.pick([True, False]):
                self.tell("meet holder", B=who, t=thing)
        if boxed:
            self.tell("take out", B=who, t=thing)
        else:
            self.tell("ask", B=who, t=thing)
            if not sure and not self.pick([True, False], [4, 1]):
                self.tell("no", B=who, t=thing, w=EXCUSES)
                return
            self.tell("yes", B=who, t=thing)
        self.give(thing, who)
        if not boxed and self.pick([True, False], [1, 3]):
            self.tell("thanks", t=thing, w=THANKS, h=HAPPY)
        self.result(thing)

    # Each kind of event: who and what it can happen to now, and the event.

    def can_borrow(self):
        return [
            (who, thing)
            for who in self.people
            for thing in self.things
            if isinstance(thing.keeper, Person) and thing.keeper is not who
        ]

    def borrow(self, who, thing):
        back = thing.owner is who
        self.tell("want back" if back else "want", lead=True, B=who, t=thing, w=WHY_WANT)
        self.get(who, thing, sure=back)

    def can_fetch(self):
        return [
            (who, thing)
            for who in self.people
            for thing in self.things
            if isinstance(thing.keeper, Box) and thing.hider is not who
        ]

    def fetch(self, who, thing):
        self.tell("look for it" if self.single else "look for", lead=True, B=who, t=thing)
        self.get(who, thing, sure=True)

    def can_bring(self):
        return [
            (thing.keeper, thing, to)
            for thing in self.things
            for to in self.people
            if isinstance(thing.keeper, Person) and thing.keeper is not to
        ]

    def bring(self, who, thing, to):
        lead = True
        others = [each for each in self.near(who) if each is not to]
        if to is thing.owner and not self.single:
            self.tell("bring back", lead, A=who, t=thing)
            lead = False
        elif others and self.pick([True, False]):
            self.tell("errand", lead, A=who, B=to, C=self.pick(others), t=thing)
            lead = False
        self.tell("bring here" if who.place == to.place else "bring", lead, A=who, B=to, t=thing)
        self.move(who, to.place)
        self.give(thing, to)
        self.result(thing)

    def can_swap(self):
        return [
            (a, b, t, u)
            for a in self.people
            for b in self.near(a)
            for t in self.held(a)
            for u in self.held(b)
        ]

    def swap(self, a, b, t, u):
        self.tell("swap", lead=True, A=a, B=b, t=t, u=u)
        self.give(t, b)
        self.give(u, a)
        self.result(t)

    def box_at(self, place):
        """The box at this place: each place has at most one."""
        for box in self.boxes:
            if box.place == place:
                return box
        return Box(place)

    def can_hide(self):
        return [(who, thing) for who in self.people for thing in self.held(who)]

    def hide(self, who, thing):
        box = self.box_at(who.place)
        self.tell("hide", lead=True, A=who, t=thing, x=box, w=WHY_HIDE)
        self.put(who, thing, box)
        self.result(thing)
        if not self.single and self.pick([True, False]):
            self.go(who)

    def can_sneak(self):
        return [
            (who, thing, other)
            for who in self.people
            for thing in self.held(who)
            for other in self.near(who)
        ]

    def sneak(self, who, thing, other):
        box = self.box_at(who.place)
        self.tell("sneak", lead=True, A=who, t=thing, x=box, B=other)
        self.put(other, thing, box)
        self.result(thing)

    def can_search(self):
        return [
            (thing, other)
            for thing in self.things
            if thing.keeper is not thing.owner
            and (isinstance(thing.keeper, Person) or thing.hider is not thing.owner)
            for other in self.near(thing.owner)
        ]

    def search(self, thing, other):
        owner = thing.owner
        self.tell("where", lead=True, A=owner, t=thing)
        if thing.keeper is other:
            self.tell("answer me", t=thing)
        elif isinstance(thing.keeper, Person):
            self.tell("answer held", A=owner, B=other, t=thing)
        else:
            self.tell("answer boxed", A=owner, B=other, t=thing)
        if self.pick([True, False], [3, 2]):
            self.get(owner, thing, sure=True)

    def can_ask(self):
        return [(a, b) for a in self.people for b in self.near(a) if len(self.people) > 2]

    def ask(self, a, b):
        third = [each for each in self.people if each is not a and each is not b]
        things = [thing for each in third for thing in self.held(each)]
        if things and self.pick([True, False]):
            self.tell("who has", lead=True, A=a, B=b, t=self.pick(things))
        else:
            self.tell("where is", lead=True, A=a, B=b, C=self.pick(third))

    # In a story of one thing everybody is at one place.

    def want(self, who, thing):
        back = thing.owner is who
        self.tell(
            "want back" if back else "want it",
            lead=True,
            A=thing.keeper,
            B=who,
            t=thing,
            w=WHY_HOLD,
        )
        self.get(who, thing, sure=back)

    def can_search_it(self):
        return [
            case
            for case in self.can_search()
            if case[1] is case[0].keeper or isinstance(case[0].keeper, Box)
        ]

    def can_ask_it(self):
        return [
            (a, b, thing)
            for thing in self.things
            for a, b in self.can_ask()
            if isinstance(thing.keeper, Person) and thing.keeper not in (a, b)
        ]

    def ask_it(self, a, b, thing):
        self.tell("who has it", lead=True, A=a, B=b, t=thing)

    def can_travel(self):
        return [(thing,) for thing in self.things if isinstance(thing.keeper, Person)]

    def travel(self, thing):
        places = [place for place in PLACES if place != thing.keeper.place]
        self.tell(
            "travel", lead=True, A=self.people[0], n=self.both, p=lambda: self.choose_place(places)
        )
        for who in self.people:
            self.move(who, self.chosen)
        if self.pick([True, False]):
            self.tell("carrying", A=thing.keeper, u=thing)

    def can_visit(self):
        return [(a, b) for a in self.people for b in self.people if a is not b]

    def visit(self, a, b):
        event = "together" if a.place == b.place else "visit"
        self.tell(event, lead=True, A=a, B=b, w=TOPICS, m=MEALS, k=HEARD)
        self.move(a, b.place)

    def can_leave(self):
        return [(who,) for who in self.people]

    def leave(self, who):
        self.go(who, lead=True)

    def aside(self):
        """A sentence in which nothing happens: what is still so, a feeling, the season."""
        weights = [8, 3, 0, 1] if self.single else [6, 6, 3, 1]
        kind = self.pick(["thing", "person", "feeling", "sight"], weights)
        if kind == "thing" and self.single:
            (thing,) = self.things
            held, new = isinstance(thing.keeper, Person), thing in self.moved
            event = (
                ("has it" if new else "still has it")
                if held
                else ("is in" if new else "still in it")
            )
            self.tell(event, A=thing.keeper, t=thing, w=TASKS)
        elif kind == "thing":
            thing = self.pick(self.things)
            held, new = isinstance(thing.keeper, Person), thing in self.moved
            self.tell(("is " if new else "still ") + ("held" if held else "in"), t=thing)
        elif kind == "person":
            who = self.pick(self.people)
            held = [] if self.single else self.held(who)
            if held and self.pick([True, False]):
                self.tell("still with", A=who, u=self.pick(held), w=TASKS)
            else:
                self.tell("still at", A=who, w=TASKS)
        elif kind == "feeling":
            thing = self.pick(self.things)
            if thing.keeper is thing.owner:
                self.tell("glad", A=thing.owner, t=thing, h=HAPPY)
            else:
                self.tell("sorry", A=thing.owner, t=thing, s=SAD)
        else:
            self.write(self.pick(self.sights))

    def recap(self):
        """Where everybody is by now, and with what."""
        if self.single:
            (thing,) = self.things
            event = "end held" if isinstance(thing.keeper, Person) else "end all"
            self.tell(event, A=self.people[0], t=thing, n=self.both)
            return
        for who in self.people:
            self.tell("end with" if self.held(who) else "end empty", A=who)

    def closing(self):
        """How the day ends: where everybody is, with what, or only a few words."""
        self.paragraph()
        if self.pick([True, False], [6, 1]):
            ends = DARK if self.night else DAY
            self.say(self.pick(list(ends.values())))
            self.recap()
            for thing in self.things:
                if isinstance(thing.keeper, Box):
                    self.tell("end box", t=thing)
        else:
            self.tell("moral")

    def questions(self):
        """Two to four lines, or n_questions, each a question and its answer; none twice."""
        asked = [(kind, who) for who in self.people for kind in ("role", "trade", "place")]
        for thing in self.things:
            held = isinstance(thing.keeper, Person)
            asked += [(kind, thing) for kind in ("made", "owner", "held" if held else "boxed")]
            asked += [("who", thing)] if held else []
        weights = {
            "role": 1,
            "trade": 1,
            "made": 1,
            "owner": 1,
            "who": 4,
            "place": 3,
            "held": 3,
            "boxed": 4,
        }
        for number in range(min(self.n_questions or 4, len(asked))):
            if not self.n_questions and number >= 2 and not self.pick([True, False], [2, 1]):
                break
            kind, about = question = self.pick(asked, [weights[kind] for kind, _ in asked])
            asked.remove(question)
            self.paragraph()
            if kind == "made" and about.noun in SOFT:
                kind = "colour"
            self.tell("question " + kind, A=about, t=about)

    def story(self):
        self.opening()
        self.meet()
        self.meet()
        while len(self.people) < 4 and self.pick([True, False], [1, 4]):
            self.meet()
        kinds, more = TOGETHER if self.single else EVENTS, True
        while more:
            self.paragraph()
            self.lead = self.pick((*LEADS, ""), [1] * len(LEADS) + [6])
            if self.lead:
                self.say(self.lead)
            events = [(weight, able(self), event) for weight, able, event in kinds]
            events = [each for each in events if each[1]]
            _, cases, event = self.pick(events, [weight for weight, _, _ in events])
            event(self, *self.pick(cases))
            if self.recaps and not self.single and self.pick([True, False]):
                self.recap()
            else:
                self.aside()
            more = self.pick([True, False], [6, 5] if self.single else [4, 5])
        self.closing()
        if self.n_questions or self.pick([True, False], [4, 1]):
            self.questions()
        return Story("".join(self.pieces), self.bits, self.recalls)


# How often, who and what it can happen to now, the event.
EVENTS = (
    (4, Teller.can_borrow, Teller.borrow),
    (4, Teller.can_fetch, Teller.fetch),
    (3, Teller.can_bring, Teller.bring),
    (1, Teller.can_swap, Teller.swap),
    (3, Teller.can_hide, Teller.hide),
    (1, Teller.can_sneak, Teller.sneak),
    (4, Teller.can_search, Teller.search),
    (2, Teller.can_ask, Teller.ask),
    (2, Teller.can_visit, Teller.visit),
    (2, Teller.can_leave, Teller.leave),
)
TOGETHER = (
    (5, Teller.can_borrow, Teller.want),
    (4, Teller.can_fetch, Teller.fetch),
    (3, Teller.can_bring, Teller.bring),
    (2, Teller.can_hide, Teller.hide),
    (1, Teller.can_sneak, Teller.sneak),
    (1, Teller.can_search_it, Teller.search),
    (2, Teller.can_ask_it, Teller.ask_it),
    (1, Teller.can_visit, Teller.visit),
    (1, Teller.can_travel, Teller.travel),
)


def dice(rng):
    """A source of chance for Teller: an index, with a probability proportional to its weight."""

    def choose(weights):
        point = rng.random() * sum(weights)
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        return len(weights) - 1

    return choose


def tell_story(rng, n_questions=None, recaps=False):
    """One story, made with the chances that rng.random() gives."""
    return Teller(dice(rng), n_questions, recaps).story()


# ---------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------


def make(n_bytes, seed, n_questions=None, recaps=False):
    """The text of the three splits as bytes, and what input.json says of it.

    Each split ends with the first story that fills it. A blank line follows every story. A
    story that occurs twice, in any split, is an error: the chance of one is far too small
    to change the entropy, but then validation would not be new.
    """
    rng = random.Random(seed)
    sizes = {"train": n_bytes, "validation": n_bytes // HELD_OUT, "test": n_bytes // HELD_OUT}
    text, splits, seen, words = [], {}, set(), set()
    offset = 0
    for split, size in sizes.items():
        part, length, n_stories, n_words, bits = [], 0, 0, 0, 0.0
        while length < size:
            story = tell_story(rng, n_questions, recaps)
            if story.text in seen:
                raise ValueError(f"seed {seed} makes one story twice: use another seed")
            seen.add(story.text)
            part.append((story.text + "\n\n").encode("utf-8"))
            length += len(part[-1])
            n_stories += 1
            found = WORD.findall(story.text)
            n_words += len(found)
            words.update(word.lower() for word in found)
            bits += story.bits
        part = b"".join(part)
        splits[split] = {
            "offset": offset,
            "bytes": length,
            "stories": n_stories,
            "words": n_words,
            "sha256": hashlib.sha256(part).hexdigest(),
            "entropy_bits": round(bits, 2),
            "floor_bits_per_byte": round(bits / length, 6),
        }
        text.append(part)
        offset += length
    text = b"".join(text)
    info = {
        "format": FORMAT,
        "seed": seed,
        "sha256": hashlib.sha256(text).hexdigest(),
        "bytes": len(text),
        "different_words": len(words),
        "splits": splits,
    }
    return text, info


def save(path, content):
    """Write a file whole or not at all: under a new name first, then moved into place."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    file = part.open("xb")  # fails where anything has that name, a link as well
    try:
        with file:
            file.write(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Parser(argparse.ArgumentParser):
    """Mistakes on the command line are reported in one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def main(arguments=None):
    here = Path(__file__).resolve().parent / "input.txt"
    parser = Parser(
        description="Write the bundled sample corpus, or more of the same kind. With FILE.txt "
        "comes FILE.json: the three splits, their hashes, their entropy."
    )
    parser.add_argument(
        "--bytes",
        type=int,
        default=TRAIN_BYTES,
        metavar="N",
        help="size of the training split (%(default)s); validation and test are "
        f"each a {HELD_OUT}th of it",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        help="other seed, other stories (%(default)s is the bundled file)",
    )
    parser.add_argument(
        "--questions",
        type=int,
        metavar="N",
        help="after every story, or as many as it allows; without it after most, two to four",
    )
    parser.add_argument(
        "--recaps",
        action="store_true",
        help="say after half of the events where everybody is by now, and with "
        "what, in stories of several things",
    )
    parser.add_argument(
        "--out", type=Path, default=here, metavar="FILE", help="where the text goes (%(default)s)"
    )
    options = parser.parse_args(arguments)
    out = options.out
    if options.bytes < 1000:
        parser.error(f"--bytes {options.bytes}: at least 1000, or a split would have no story")
    if options.seed < 0:
        parser.error(f"--seed {options.seed}: seeds are whole numbers from 0 on")
    if options.questions is not None and options.questions < 1:
        parser.error(f"--questions {options.questions}: at least 1, or leave it out")
    if out.suffix == ".json":
        parser.error(f"--out {out}: the text needs another name, FILE.json is written next to it")
    if out.is_dir() or not out.parent.is_dir():
        parser.error(f"--out {out}: give the name of a file in a folder that is there")
    try:
        text, info = make(options.bytes, options.seed, options.questions, options.recaps)
        command = "python data/world.py"
        if vars(options) != {**vars(parser.parse_args([])), "out": out}:
            command += f" --bytes {options.bytes} --seed {options.seed}"
            command += f" --questions {options.questions}" if options.questions else ""
            command += " --recaps" if options.recaps else ""
            command += f" --out {out.name}"
        save(out, text)
        save(
            out.with_suffix(".json"),
            (json.dumps({**info, "command": command}, indent=1) + "\n").encode("utf-8"),
        )
    except (OSError, ValueError) as error:
        parser.error(f"{out}: {getattr(error, 'strerror', None) or error}")
    for split, facts in info["splits"].items():
        print(
            f"{split:10} {facts['bytes']:9,} bytes  {facts['stories']:6,} stories  "
            f"{facts['words']:8,} words  entropy {facts['floor_bits_per_byte']:.4f} bits per byte"
        )


if __name__ == "__main__":
    main()
