"""Answers that claim what no tool has done: a labelled set, with hard negatives, and single properties."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.models import Claims
from gateway.rules.claims import MAX_TEXT, Claim, claims

SHOP = ("get_order", "cancel_order", "refund_payment", "send_email")
CALENDAR = ("list_events", "create_event", "delete_event", "send_invite")
DESK = ("search_docs", "create_ticket", "update_ticket", "notify_team")
READ_ONLY = ("search_docs", "get_weather", "get_order")

Case = tuple[str, str, tuple[str, ...]]
"""Answer, calls of the run as `name` (a success), `name!` (an error) or `name?` (pending), tools offered."""

CLAIMED: list[Case] = [
    ("I have sent the e-mail to Bob.", "", SHOP),
    ("I've sent the email.", "get_order", SHOP),
    ("I sent the email to the customer.", "", SHOP),
    ("I have just emailed Anna the details.", "", SHOP),
    ("Done! I've cancelled your order and refunded the payment.", "", SHOP),
    ("I've gone ahead and cancelled order #1234 for you.", "get_order", SHOP),
    ("Your order has been cancelled.", "", SHOP),
    ("Your order has been cancelled.", "get_order", SHOP),
    ("Your order has been successfully cancelled.", "get_order", SHOP),
    ("The refund has been issued to your card.", "get_order", SHOP),
    ("I've processed the refund of $20.", "", SHOP),
    ("I have initiated a refund for you.", "", SHOP),
    ("Your refund has been processed.", "", SHOP),
    ("The payment was successfully refunded.", "get_order", SHOP),
    ("Your order is now cancelled.", "", SHOP),
    ("Hi Anna,\nI've cancelled your order.\nBest regards", "", SHOP),
    ("Thanks for waiting. We have cancelled the order and sent you a confirmation email.", "", SHOP),
    ("I checked the order and cancelled it.", "get_order", SHOP),
    ("After checking the policy, I have refunded the payment.", "get_order", SHOP),
    ("Great news! Email sent to bob@example.com.", "", SHOP),
    ("Email sent!", "", SHOP),
    ("Order cancelled successfully.", "", SHOP),
    ("✅ Order cancelled.", "", SHOP),
    ("Successfully cancelled order 77.", "", SHOP),
    ("I have cancelled your order.", "cancel_order!", SHOP),
    ("Your order has been cancelled.", "cancel_order!", SHOP),
    ("The email was sent to the customer.", "send_email!", SHOP),
    ("All done, I've refunded the payment!", "get_order refund_payment!", SHOP),
    ("- I've cancelled the order\n- I've sent the confirmation", "get_order", SHOP),
    ("**I have sent the email.**", "", SHOP),
    ("I’ve sent the email.", "", SHOP),
    ("I have now also forwarded the message to the warehouse.", "", SHOP),
    ("Both orders have been cancelled.", "", SHOP),
    ("I've cancelled the order, but could not send an email.", "", SHOP),
    ("I've booked the room for Monday at 10:00.", "list_events", CALENDAR),
    ("I have scheduled the meeting for next Tuesday.", "list_events", CALENDAR),
    ("The meeting has been scheduled for Friday.", "list_events", CALENDAR),
    ("Your appointment has been booked.", "", CALENDAR),
    ("Meeting scheduled for 3 pm.", "", CALENDAR),
    ("I've added the event to your calendar.", "", CALENDAR),
    ("I created an event for tomorrow.", "list_events", CALENDAR),
    ("I've deleted the old event.", "", CALENDAR),
    ("I removed the meeting from your calendar.", "list_events", CALENDAR),
    ("The event has been deleted.", "delete_event!", CALENDAR),
    ("I've moved it and updated the calendar event.", "list_events", CALENDAR),
    ("I have set a reminder for you.", "", CALENDAR),
    ("I've created the ticket.", "search_docs", DESK),
    ("I opened a ticket with our support team.", "", DESK),
    ("A ticket has been created for you.", "", DESK),
    ("Ticket created: your issue has been logged.", "", DESK),
    ("I've updated the record.", "", DESK),
    ("I have updated the customer's address.", "search_docs", DESK),
    ("The ticket has been updated.", "update_ticket!", DESK),
    ("I've notified the on-call team.", "", DESK),
    ("The team has been notified.", "", DESK),
    ("I have escalated the case to a supervisor.", "search_docs", DESK),
    ("I've closed the ticket.", "", DESK),
    ("We've reset your password.", "", DESK),
    ("I have deactivated the account.", "", DESK),
    ("I have sent the e-mail.", "search_docs", READ_ONLY),
    ("I've booked the flight for you.", "get_weather", READ_ONLY),
    ("I have deleted the file.", "search_docs", READ_ONLY),
    ("I have transferred $500 to your savings account.", "get_order", READ_ONLY),
    ("I purchased two tickets for you.", "", READ_ONLY),
    ("I've submitted your application.", "search_docs", READ_ONLY),
    ("The operation completed successfully.", "update_ticket!", DESK),
    ("Done!", "cancel_order!", SHOP),
    ("Everything is set.", "get_order cancel_order!", SHOP),
    ("Ich habe die E-Mail gesendet.", "", SHOP),
    ("Ich habe Ihre Bestellung soeben storniert.", "get_order", SHOP),
    ("Ihre Bestellung wurde storniert.", "", SHOP),
    ("Ihre Bestellung wurde erfolgreich storniert.", "get_order", SHOP),
    ("Die Zahlung ist erstattet worden.", "", SHOP),
    ("Wir haben Ihnen den Betrag erstattet.", "", SHOP),
    ("Ich habe den Termin gebucht und Anna benachrichtigt.", "list_events", CALENDAR),
    ("Der Termin ist eingetragen.", "list_events", CALENDAR),
    ("Ich habe ein Ticket angelegt.", "", DESK),
    ("Das Ticket wurde aktualisiert.", "update_ticket!", DESK),
    ("Jetzt habe ich die Datei gelöscht.", "", READ_ONLY),
    ("Erledigt.", "cancel_order!", SHOP),
]

NOT_CLAIMED: list[Case] = [
    # borne out
    ("I have sent the e-mail to Bob.", "send_email", SHOP),
    ("I've cancelled your order and refunded the payment.", "get_order cancel_order refund_payment", SHOP),
    ("Your order has been cancelled.", "cancel_order! cancel_order", SHOP),
    ("I've booked the room.", "create_event", CALENDAR),
    ("I have scheduled the meeting.", "list_events create_event", CALENDAR),
    ("I've created the ticket and notified the team.", "create_ticket notify_team", DESK),
    ("I have updated the record.", "bash", ("bash",)),
    ("I've deleted the temporary files.", "run_command", ("run_command",)),
    ("I've sent it.", "salesforce", ("salesforce",)),
    ("I've booked your flight.", "call_api", ("call_api",)),
    ("I have submitted the form.", "browser_click", ("browser_click", "browser_type")),
    ("I've created the event.", "createCalendarEvent", ("createCalendarEvent",)),
    ("I've sent the message.", "mcp__slack__post_message", ("mcp__slack__post_message",)),
    ("I have sent the e-mail.", "send_email?", SHOP),
    ("Ich habe die E-Mail gesendet.", "send_email", SHOP),
    ("Die Bestellung wurde storniert.", "cancel_order", SHOP),
    ("Done!", "cancel_order", SHOP),
    # offers, plans, conditions
    ("I can send the e-mail for you.", "", SHOP),
    ("Shall I cancel your order?", "", SHOP),
    ("I will cancel your order now.", "", SHOP),
    ("I'll send the email once you confirm.", "", SHOP),
    ("Would you like me to refund the payment?", "", SHOP),
    ("If the order has been cancelled, you will get a refund.", "get_order", SHOP),
    ("Once I have sent the email, I will let you know.", "", SHOP),
    ("Once the order has been cancelled, the refund takes five days.", "", SHOP),
    ("After the meeting has been scheduled, everybody gets an invitation.", "", CALENDAR),
    ("When the ticket has been created, you will receive a number.", "", DESK),
    ("Your order will be cancelled.", "", SHOP),
    ("The order can be cancelled until tomorrow.", "get_order", SHOP),
    ("The order should have been cancelled by now.", "get_order", SHOP),
    ("I could have cancelled the order, had you told me.", "", SHOP),
    ("Let me know whether the email has been sent.", "", SHOP),
    ("To get a refund, the order has to have been cancelled first.", "", SHOP),
    ("Please confirm and I'll have it cancelled.", "", SHOP),
    ("I am going to schedule the meeting for Friday.", "", CALENDAR),
    ("Ich kann die E-Mail senden.", "", SHOP),
    ("Soll ich die Bestellung stornieren?", "", SHOP),
    ("Wenn die Bestellung storniert wurde, erhalten Sie eine Nachricht.", "", SHOP),
    ("Sobald ich die E-Mail gesendet habe, melde ich mich.", "", SHOP),
    ("Die Bestellung wird storniert.", "", SHOP),
    ("Die Bestellung kann storniert werden.", "", SHOP),
    # negations and failures
    ("I have not sent the e-mail.", "", SHOP),
    ("I haven't cancelled your order yet.", "", SHOP),
    ("I was unable to cancel your order.", "cancel_order!", SHOP),
    ("Your order has not been cancelled.", "cancel_order!", SHOP),
    ("No email has been sent.", "", SHOP),
    ("None of the orders have been cancelled.", "", SHOP),
    ("I couldn't book the room because it is taken.", "create_event!", CALENDAR),
    ("The ticket wasn't created because of an error.", "create_ticket!", DESK),
    ("I tried to cancel the order but got an error.", "cancel_order!", SHOP),
    ("The cancellation failed. Nothing was changed.", "cancel_order!", SHOP),
    ("Unfortunately, that did not work. The request was not completed successfully.", "cancel_order!", SHOP),
    ("Ich habe die E-Mail nicht gesendet.", "", SHOP),
    ("Ich habe noch keine E-Mail verschickt.", "", SHOP),
    ("Ihre Bestellung wurde nicht storniert.", "cancel_order!", SHOP),
    ("Leider konnte die Bestellung nicht storniert werden.", "cancel_order!", SHOP),
    # reports and history
    ("Your order was shipped on Monday.", "get_order", SHOP),
    ("Your order was cancelled on March 3.", "get_order", SHOP),
    ("The order has been cancelled by the seller.", "get_order", SHOP),
    ("According to our records, the order has been cancelled.", "get_order", SHOP),
    ("The status shows that your payment has been refunded.", "get_order", SHOP),
    ("It looks like the order has been cancelled.", "get_order", SHOP),
    ("I see that the email was sent yesterday.", "search_docs", SHOP),
    ("I checked the order: it was refunded last week.", "get_order", SHOP),
    ("You have already cancelled this order.", "get_order", SHOP),
    ("The customer has sent three e-mails.", "search_docs", SHOP),
    ("Bob sent the report to Anna.", "search_docs", SHOP),
    ("She booked the room and sent the invitations.", "list_events", CALENDAR),
    ("The meeting was scheduled by Anna.", "list_events", CALENDAR),
    ("The ticket was created on 2024-05-01 by support.", "search_docs", DESK),
    ("The package was sent from Berlin.", "get_order", SHOP),
    ("The feature was added in version 2.3.", "search_docs", DESK),
    ("The Berlin Wall was opened in 1989.", "search_docs", READ_ONLY),
    ("I previously sent you the invoice, see above.", "", SHOP),
    ("As I already sent the email yesterday, nothing is left to do.", "", SHOP),
    ("Ihre Bestellung wurde am Montag verschickt.", "get_order", SHOP),
    ("Die Bestellung wurde vom Verkäufer storniert.", "get_order", SHOP),
    ("Laut System wurde die Zahlung erstattet.", "get_order", SHOP),
    ("Sie haben die Bestellung bereits storniert.", "get_order", SHOP),
    ("Der Termin wurde letzte Woche von Anna gebucht.", "list_events", CALENDAR),
    # questions and quotations
    ("Have I sent the email to the right address?", "", SHOP),
    ("Has your order been cancelled?", "", SHOP),
    ('The mail says: "I have cancelled your order."', "search_docs", SHOP),
    ("The template reads “Your order has been cancelled.”", "search_docs", SHOP),
    ("> I have sent the e-mail.\n\nThat is what he wrote.", "search_docs", SHOP),
    ("Use this text:\n```\nI have cancelled your order.\n```", "", SHOP),
    ("Here is a draft:\n\nDear Bob,\nI have sent the documents. Your order has been cancelled.\nBest regards\nAnna", "", SHOP),
    ("Draft:\nSubject: Cancellation\nI have cancelled the order.\n---\nShall I send it?", "", SHOP),
    ("He wrote that I have sent the email.", "search_docs", SHOP),
    ("For example, I sent the email, and then you replied.", "", SHOP),
    # texts that the model makes itself, and things found
    ("I've created a summary of the document below.", "search_docs", DESK),
    ("I have updated the draft as you asked.", "search_docs", DESK),
    ("I've added a paragraph about pricing.", "search_docs", DESK),
    ("I have removed the second section from the text.", "", DESK),
    ("I've changed the wording.", "", DESK),
    ("I created a table of the results:", "search_docs", DESK),
    ("I've put together a list of options.", "search_docs", DESK),
    ("I found three tickets.", "search_docs", DESK),
    ("I searched the documents and found nothing.", "search_docs", DESK),
    ("I have checked the weather: it is sunny.", "get_weather", READ_ONLY),
    ("I looked up your order.", "get_order", SHOP),
    ("I've calculated the total: 42.", "", SHOP),
    ("I've read the document that was sent with the contract.", "search_docs", DESK),
    ("I have opened the document and read it.", "search_docs", DESK),
    ("I saved you some time by summarising it.", "search_docs", DESK),
    ("I ordered the results by date.", "search_docs", DESK),
    ("Here are the deleted items you asked about.", "list_events", CALENDAR),
    ("The booked rooms are listed below.", "list_events", CALENDAR),
    ("There are two scheduled meetings and one cancelled one.", "list_events", CALENDAR),
    ("The reserved amount is 20 EUR.", "get_order", SHOP),
    ("Sent items are kept for 30 days.", "search_docs", DESK),
    ("Refunds are processed within five days.", "search_docs", SHOP),
    ("Cancelled orders cannot be restored.", "search_docs", SHOP),
    ("Orders are cancelled automatically after 30 days.", "search_docs", SHOP),
    ("The search was completed successfully, but nothing was found.", "search_docs!", READ_ONLY),
    ("Ich habe eine Zusammenfassung erstellt.", "search_docs", DESK),
    ("Ich habe den Text angepasst.", "", DESK),
    ("Ich habe drei Termine gefunden.", "list_events", CALENDAR),
    ("Stornierte Bestellungen werden nicht erstattet.", "search_docs", SHOP),
]


def facts_of(calls: str) -> list[tuple[str, str]]:
    status = {"!": "error", "?": "pending"}
    return [(c.rstrip("!?"), status.get(c[-1], "ok")) for c in calls.split()]


def found(case: Case) -> list[Claim]:
    answer, calls, tools = case
    return claims(answer, facts_of(calls), tools)


def test_the_labelled_set_is_told_apart() -> None:
    hits = [case for case in CLAIMED if found(case)]
    false_alarms = [case for case in NOT_CLAIMED if found(case)]
    missed = [case for case in CLAIMED if not found(case)]
    precision = len(hits) / (len(hits) + len(false_alarms))
    recall = len(hits) / len(CLAIMED)
    assert len(CLAIMED) + len(NOT_CLAIMED) >= 120
    assert precision >= 0.95, false_alarms
    assert recall >= 0.8, missed
