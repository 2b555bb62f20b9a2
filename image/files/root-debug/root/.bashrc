PS1='\h:\w\$ '
alias ll='ls -l'
