// Placeholder until the subcommands are in.
int main(void) { return 0; }
