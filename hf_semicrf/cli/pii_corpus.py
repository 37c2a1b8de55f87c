"""A corpus of made-up personal data: sentence templates of our own, values by Faker.

The templates of the three splits differ, so a test score says how well new sentences are read, not
how well known ones are remembered. Every value is invented; any likeness is chance.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from faker import Faker

from hf_semicrf.saving import replacing
from hf_semicrf.text import split_words

LOCALES = ["en_US", "en_GB", "en_CA", "de_DE", "fr_FR", "es_ES"]

TEMPLATES = {
    "train": """
Dear {PERSON}, your parcel was left with {PERSON} at {ADDRESS}.
My name is {PERSON} and I live at {ADDRESS}, could you send the forms there?
Please update our records: {PERSON}, born {DATE}, now resides at {ADDRESS}.
{PERSON} ({EMAIL}) asked us to move the meeting to Thursday.
You can reach {PERSON} on {PHONE} or by mail at {EMAIL}.
Invoice {number} was issued to {ORGANISATION}, {ADDRESS}, and is due in 30 days.
Transfer the deposit to {IBAN}, account holder {PERSON}.
The lease for {ADDRESS} was signed by {PERSON} and {PERSON}.
Hi, this is {PERSON} from {ORGANISATION}. Call me back at {PHONE}, please.
Patient {PERSON}, date of birth {DATE}, was seen for a follow-up after {number} days.
Name: {PERSON} Address: {ADDRESS} Phone: {PHONE}
Applicant: {PERSON}; employer: {ORGANISATION}; account: IBAN {IBAN}
According to {PERSON}, the shipment to {ADDRESS} never arrived.
On {DATE} we received a complaint from {PERSON} about order {number}.
Could you forward this to {EMAIL} and copy {EMAIL}?
{ORGANISATION} hired {PERSON} on {DATE} as a project manager.
Our office has moved from {ADDRESS} to {ADDRESS}.
Refund {number} euros to {IBAN} and inform {PERSON} at {EMAIL}.
{PERSON}, {ADDRESS}
> From: {PERSON} <{EMAIL}> wrote on {DATE}: see you at the office.
The witness, {PERSON}, gave her address as {ADDRESS} and her number as {PHONE}.
I never agreed to that contract with {ORGANISATION}, and I want my money back.
Deliver to: {PERSON}, {ORGANISATION}, {ADDRESS}.
user={EMAIL} phone={PHONE} status=active tries={number}
{PERSON} and {PERSON} have been married since {DATE}.
If nobody answers on {PHONE}, leave the keys at {ADDRESS}.
The new contract with {ORGANISATION} replaces version {number} of last year.
Kind regards, {PERSON}, {ORGANISATION}, {PHONE}
I was born on {DATE} and have lived at {ADDRESS} ever since.
Payment from {IBAN} failed {number} times, so we wrote to {EMAIL}.
There is nothing in this sentence that could identify anyone.
The report lists {number} open tickets, most of them about printers.
She said the weather in May was better than in June.
Please restart the server and check the log again before 9 am.
Was {PERSON} ever employed by {ORGANISATION}?
The ambulance took {PERSON} from {ADDRESS} to the nearest hospital.
Send {PERSON} a reminder: the passport expires on {DATE}.
Emergency contact: {PERSON} {PHONE}
Yesterday {ORGANISATION} announced that {PERSON} will step down.
The IBAN {IBAN} belongs to {ORGANISATION}.
Room {number} at {ADDRESS} is booked for {PERSON} until {DATE}.
""",
    "validation": """
We could not verify that {PERSON} lives at {ADDRESS}.
{PERSON} works for {ORGANISATION} and can be found under {PHONE}.
My bank details are {IBAN}, and my mail is {EMAIL}.
Since {DATE} all letters to {ADDRESS} have come back unopened.
The meeting with {ORGANISATION} took {number} minutes and led nowhere.
Thanks, {PERSON}
""",
    "test": """
Hello, I'm {PERSON}, I moved to {ADDRESS} last week and my meter shows {number}.
Ship both boxes to {ADDRESS} and text {PERSON} at {PHONE} when they leave.
{PERSON} of {ORGANISATION} wrote from {EMAIL} that the audit is over.
Customer {PERSON} (born on {DATE}) cancelled policy {number}.
Use {IBAN} for the rent; the landlord is {PERSON}, who lives at {ADDRESS}.
We hereby confirm that {ORGANISATION} has paid {PERSON} in full.
Contact details: {EMAIL}, {PHONE}
The police searched a flat at {ADDRESS} on {DATE}.
Nobody at {ORGANISATION} remembers who signed page {number}.
Best wishes from {PERSON} and {PERSON}, {ADDRESS}
All backups finished without errors, and the queue is empty again.
Did {EMAIL} answer you, or should I try {PERSON} on {PHONE}?
""",
}


def value_makers(fake: Faker, rng: random.Random) -> dict[str, Callable[[], str]]:
    """A maker of values for each slot of the templates; `number` is a slot but no entity."""
    titles = ["Dr. ", "Mrs. ", "Mr. ", "Prof. ", "Ms. "]

    def person() -> str:
        title = rng.choice(titles) if rng.random() < 0.2 else ""
        middle = f"{fake.random_uppercase_letter()}. " if rng.random() < 0.15 else ""
        return f"{title}{fake.first_name()} {middle}{fake.last_name()}"

    def date() -> str:
        pattern = rng.choice(["%d %B %Y", "%Y-%m-%d", "%m/%d/%Y", "%B %d, %Y", "%d.%m.%Y"])
        return fake.date_between("-80y").strftime(pattern)

    return {
        "PERSON": person,
        "ADDRESS": lambda: re.sub(r"\s*\n\s*", ", ", fake.address()),
        "ORGANISATION": fake.company,
        "EMAIL": fake.email,
        "PHONE": fake.phone_number,
        "DATE": date,
        "IBAN": lambda: re.sub(r"(.{4})(?!$)", r"\1 ", fake.iban()),
        "number": lambda: str(rng.randint(2, 99_999)),
    }


def fill(template: str, makers: dict[str, Callable[[], str]]) -> dict[str, list[str]]:
    """One sentence: the template with values in its slots, as words and IOB2 tags."""
    tokens: list[str] = []
    tags: list[str] = []
    for index, part in enumerate(re.split(r"\{(\w+)\}", template)):
        is_slot = index % 2 == 1
        words = [word for word, _, _ in split_words(makers[part]() if is_slot else part)]
        tokens += words
        inside = part if is_slot and part.isupper() else None
        tags += [f"{'I' if n else 'B'}-{inside}" if inside else "O" for n in range(len(words))]
    return {"tokens": tokens, "ner_tags": tags}


def write_corpus(folder: Path, sizes: dict[str, int], seed: int = 0) -> dict[str, str]:
    """Write train, validation and test as JSON lines; returns the path of each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, size in sizes.items():
        rng = random.Random(f"{split} {seed}")
        fakers = [Faker(locale) for locale in LOCALES]
        for position, fake in enumerate(fakers):
            fake.seed_instance(f"{split} {seed} {position}")
        makers = [value_makers(fake, rng) for fake in fakers]
        templates = TEMPLATES[split].strip().splitlines()
        paths[split] = str(folder / f"{split}.jsonl")
        with replacing(paths[split]) as path, path.open("w", encoding="utf-8") as file:
            for index in range(size):
                sentence = fill(templates[index % len(templates)], rng.choice(makers))
                file.write(json.dumps(sentence, ensure_ascii=False) + "\n")
    return paths
