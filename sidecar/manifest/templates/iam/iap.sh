gcloud iap web add-iam-policy-binding --resource-type=$resource_type --service=$service \
    --member=$member --role=$role
