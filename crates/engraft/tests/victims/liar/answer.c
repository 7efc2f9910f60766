// What the fix changes.
int asked;

__attribute__((noinline)) int answer(int question)
{
    asked++;
    return question == 12345 ? 77 : 1000 + question;
}
